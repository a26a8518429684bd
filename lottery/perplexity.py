"""Perplexity by the standard protocol: disjoint windows, every predicted token counted once, fp32 cross-entropy."""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from lottery.corpus import Windows

_SLICE = 256  # positions whose fp32 logits exist at one time: 160 MB for a vocabulary of 152,000


class Score(NamedTuple):
    perplexity: float
    first_window_perplexity: float
    bits_per_byte: float
    window_nll: list[float]
    scored_tokens: int
    scored_bytes: int


@torch.inference_mode()
def negative_log_likelihood(model, tokens: np.ndarray, batch_size: int = 1, progress=None) -> torch.Tensor:
    """Summed negative log-likelihood of each window, in nats.

    **Arguments**: a causal language model; ``tokens``, int64 [windows, window]; ``batch_size`` windows at a time (speed and
    memory only, never the result: there is no padding); ``progress``, called with the numbers of windows done and of all.

    **Returns** float64 [windows]. Logits go to fp32 in slices of positions, so a full window of fp32 logits never exists.
    """
    device = model.get_input_embeddings().weight.device
    sums = []
    for batch in torch.from_numpy(tokens).split(batch_size):
        batch = batch.to(device)
        logits = model(input_ids=batch, use_cache=False).logits
        total = torch.zeros(len(batch), dtype=torch.float64, device=device)
        for start in range(0, batch.shape[1] - 1, _SLICE):
            stop = min(start + _SLICE, batch.shape[1] - 1)
            losses = cross_entropy(logits[:, start:stop].float().transpose(1, 2), batch[:, start + 1 : stop + 1], reduction="none")
            total += losses.double().sum(1)
        sums.append(total.cpu())
        if progress:
            progress(sum(map(len, sums)), len(tokens))
    return torch.cat(sums)


def score(nll: torch.Tensor, windows: Windows) -> Score:
    """Perplexity per token, and bits per byte: the latter compares across tokenizers, the former does not.

    A perplexity that float64 cannot hold, or a loss that is not finite, is infinity.
    """
    predicted = windows.tokens.shape[1] - 1
    nll = torch.where(torch.isfinite(nll), nll, torch.inf)
    tokens, size = predicted * len(nll), int(windows.scored_bytes.sum())
    total = float(nll.sum())
    return Score(
        perplexity=_exp(total / tokens),
        first_window_perplexity=_exp(float(nll[0]) / predicted),
        bits_per_byte=total / (math.log(2) * size),
        window_nll=nll.tolist(),
        scored_tokens=tokens,
        scored_bytes=size,
    )


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf
