"""How well token frequencies alone predict a text: a model that is worse than they are has nothing left to lose. Numbers only, no torch."""

import numpy as np


def unigram_nll(tokens: np.ndarray, vocabulary: int) -> np.ndarray:
    """Score each window by how often each token occurs in the other windows, whatever comes before it.

    Tokens that the other windows do not hold are smoothed as by Witten and Bell (1991), so nothing has to be tuned: among N tokens of T
    kinds, one that occurs c times has the probability c / (N + T), and all others share T / (N + T) evenly.

    Args:
        tokens: The windows, [windows, window]. The first token of each is context only.
        vocabulary: How many kinds of token there are.

    Returns:
        Negative log-likelihoods in nats, summed over the predicted tokens of each window, float64 [windows].
    """
    vocabulary = max(vocabulary, int(tokens.max()) + 1)
    counts = np.bincount(tokens.ravel(), minlength=vocabulary)
    return np.array([_nll(window[1:], counts - np.bincount(window, minlength=vocabulary)) for window in tokens])


def _nll(tokens: np.ndarray, counts: np.ndarray) -> float:
    total, kinds, kinds_in_all = int(counts.sum()), int(np.count_nonzero(counts)), len(counts)
    if not total:  # there is no other window
        return len(tokens) * float(np.log(kinds_in_all))
    unseen = kinds / max(1, kinds_in_all - kinds)
    return float(-np.log(np.where(counts[tokens] > 0, counts[tokens], unseen) / (total + kinds)).sum())
