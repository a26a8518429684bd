"""A plain verdict on a model's texts: does this read like language, or is it loops, salad or noise?

No model judges: the texts are compared with the very text that perplexity was measured on. Every threshold is relative to how
that text does against itself, so none is tuned to one model or one corpus. The samples are always shown beside the verdict.
"""

import re
from collections import Counter
from functools import lru_cache
from itertools import pairwise

from lottery.records import Coherence

WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")

NOISE_SHARE = 0.10  # control, private-use and replacement characters among all characters
KNOWN_WORDS = 0.80  # of the share of known words that the reference reaches
KNOWN_PAIRS = 0.75  # of the share of known word pairs that the reference reaches
REPEATED = 0.50  # word triples that occurred before in the same sample


@lru_cache(maxsize=4)
def reference(text: str) -> tuple[frozenset, frozenset, float, float]:
    """Words and word pairs of a text, and which shares of them one half of it finds in the other half."""
    tokens = words(text)
    half = len(tokens) // 2
    seen_words, seen_pairs = set(tokens[:half]), set(pairs(tokens[:half]))
    share_words = _share(tokens[half:], seen_words)
    share_pairs = _share(pairs(tokens[half:]), seen_pairs)
    return frozenset(tokens), frozenset(pairs(tokens)), share_words, share_pairs


def words(text: str) -> list[str]:
    return [word.lower() for word in WORD.findall(text)]


def pairs(tokens: list[str]) -> list[tuple[str, str]]:
    return list(pairwise(tokens))


def _share(items: list, known: set | frozenset) -> float:
    return sum(item in known for item in items) / len(items) if items else 0.0


def verdict(samples: list[str], reference_text: str) -> Coherence:
    """Whether the samples together read like language, and the first reason why not.

    **Arguments**: the generated texts without their prompts; the text to compare with, a few thousand words or more.
    """
    joined = "".join(samples)
    if not joined.strip():
        return Coherence(coherent=False, reason="empty")
    noise = sum(not (c.isprintable() or c in "\n\t") or c == "\ufffd" for c in joined) / len(joined)
    if noise > NOISE_SHARE:
        return Coherence(coherent=False, reason=f"noise: {noise:.0%} of the characters cannot be printed")
    tokens = [words(sample) for sample in samples]
    flat = [word for sample in tokens for word in sample]
    if len(flat) < 5 * len(samples):
        return Coherence(coherent=False, reason=f"hardly a word: {len(flat)} in {len(samples)} samples")
    known_words, known_pairs, usual_words, usual_pairs = reference(reference_text)
    repeated = sum(_repeats(sample) for sample in tokens) / max(1, sum(max(0, len(sample) - 2) for sample in tokens))
    if repeated > REPEATED:
        return Coherence(coherent=False, reason=f"loops: {repeated:.0%} of the word triples repeat")
    share = _share(flat, known_words)
    if share < KNOWN_WORDS * usual_words:
        return Coherence(coherent=False, reason=f"not words: {share:.0%} of them are known, {usual_words:.0%} is usual")
    share = _share([pair for sample in tokens for pair in pairs(sample)], known_pairs)
    if share < KNOWN_PAIRS * usual_pairs:
        return Coherence(coherent=False, reason=f"word salad: {share:.0%} of the word pairs are known, {usual_pairs:.0%} is usual")
    return Coherence(coherent=True, reason=f"{share:.0%} of the word pairs are known, {usual_pairs:.0%} is usual")


def _repeats(tokens: list[str]) -> int:
    triples = Counter(zip(tokens, tokens[1:], tokens[2:], strict=False))
    return sum(count - 1 for count in triples.values())
