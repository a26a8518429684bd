"""Whether a model's texts still read like language: measures with a verdict. Numbers and text only: no model, no torch.

Each measure is compared with what the test text itself reaches, so no threshold is tuned to one model or one corpus:

- noise: control, private-use and replacement characters among all characters;
- repeated 4-grams: share of the sequences of four words that occurred before in the same sample; distinct-2: share of the word pairs
  of a sample that are different ones (arXiv 1510.03055);
- known words: share of the words that the test text has too, relative to what one half of that text knows of the other;
- surprise: the dense model's own bits per byte on the texts, placed between its bits on real stretches of the test text (0) and on the
  same stretches with their words shuffled (1). A dense model that finds shuffled words hardly worse than real ones cannot judge.

A text is as good as its worst measure. The thresholds were set on the stand-ins and on stories260K, whose texts were read beside the
measures at ten sparsities each. The samples are always shown beside the verdict.
"""

import random
import re
import statistics
from functools import lru_cache
from typing import NamedTuple

from lottery.records import Coherence

WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
CAN_JUDGE = 1.3  # shuffled words must cost the dense model so many times the bits of real ones
_STRETCHES, _STRETCH_WORDS = 20, 40
_LEAST_WORDS = 5  # a sample


class Limit(NamedTuple):
    """Beyond ``degraded`` a text is degraded, beyond ``broken`` broken."""

    degraded: float
    broken: float


NOISE = Limit(0.01, 0.10)
REPEATED = Limit(0.20, 0.50)
DISTINCT = Limit(0.50, 0.30)  # below
KNOWN = Limit(0.90, 0.60)  # below, relative to what the test text knows of itself
SURPRISE = Limit(0.20, 0.60)


@lru_cache(maxsize=4)
def reference(text: str) -> tuple[frozenset, float]:
    """The words of a text, and which share of the words of its second half its first half has."""
    tokens = words(text)
    half = len(tokens) // 2
    return frozenset(tokens), _share(tokens[half:], set(tokens[:half]))


def words(text: str) -> list[str]:
    return [word.lower() for word in WORD.findall(text)]


def yardsticks(text: str, beginning: int, seed: int = 0) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Stretches of a text after beginnings of so many words, as they are and with their words shuffled; from all over the text."""
    spans = [match.span() for match in re.finditer(r"\S+", text)]
    length = min(_STRETCH_WORDS, max(1, len(spans) - beginning))
    places = range(0, max(1, len(spans) - beginning - length), max(1, len(spans) // _STRETCHES))
    shuffle, real, shuffled = random.Random(seed), [], []
    for place in list(places)[:_STRETCHES]:
        begun = spans[min(place + beginning, len(spans)) - 1][1]
        stretch = text[begun : spans[min(place + beginning + length, len(spans)) - 1][1]]
        mixed = stretch.split()
        shuffle.shuffle(mixed)
        real.append((text[spans[place][0] : begun], stretch))
        shuffled.append((real[-1][0], " " + " ".join(mixed)))
    return real, shuffled


def verdict(samples: list[str], text: str, bits: float, real_bits: float, shuffled_bits: float) -> Coherence:
    """Coherent, degraded or broken, and the measure that decides.

    **Arguments**: the generated texts without their prompts; the test text, a few thousand words or more; the dense model's bits per byte
    on the samples, and on the real and the shuffled stretches of ``yardsticks``.
    """
    joined = "".join(samples)
    tokens = [words(sample) for sample in samples]
    flat = [word for sample in tokens for word in sample]
    known, usual = reference(text)
    noise = sum(not (c.isprintable() or c in "\n\t") or c == "\ufffd" for c in joined) / max(1, len(joined))
    repeated = statistics.fmean(1 - _distinct(sample, 4) for sample in tokens)
    distinct = statistics.fmean(_distinct(sample, 2) for sample in tokens)
    share = _share(flat, known)
    can_judge = shuffled_bits >= CAN_JUDGE * real_bits
    surprise = (bits - real_bits) / (shuffled_bits - real_bits) if can_judge else 0.0
    judged = [
        (_above(noise, NOISE), f"noise: {noise:.0%} of the characters cannot be printed"),
        (2 * (len(flat) < _LEAST_WORDS * len(samples)), f"hardly a word: {len(flat)} in {len(samples)} samples"),
        (_above(repeated, REPEATED), f"loops: {repeated:.0%} of the word 4-grams repeat"),
        (_above(-distinct, Limit(-DISTINCT.degraded, -DISTINCT.broken)), f"loops: {distinct:.0%} of the word pairs are distinct"),
        (
            _above(-share, Limit(-KNOWN.degraded * usual, -KNOWN.broken * usual)),
            f"not words: {share:.0%} of them are known, {usual:.0%} is usual",
        ),
        (
            _above(surprise, SURPRISE),
            f"word salad: the dense model needs {bits:.2f} bits per byte, {real_bits:.2f} for real text and"
            f" {shuffled_bits:.2f} for shuffled words",
        ),
    ]
    worst, reason = max(judged, key=lambda pair: pair[0]) if joined.strip() else (2, "empty")
    if not worst:
        reason = f"the dense model needs {bits:.2f} bits per byte, {real_bits:.2f} for real text"
        if not can_judge:
            reason = f"{share:.0%} of the words are known, {usual:.0%} is usual; the dense model cannot tell this text from shuffled words"
    return Coherence(
        verdict=("coherent", "degraded", "broken")[worst],
        reason=reason,
        noise=noise,
        repeated_4grams=repeated,
        distinct_2=distinct,
        known_words=share,
        bits_per_byte=bits,
        real_bits_per_byte=real_bits,
        shuffled_bits_per_byte=shuffled_bits,
    )


def _above(value: float, limit: Limit) -> int:
    """0, 1 or 2: within the limits, beyond the first, beyond the second. What is no number is beyond both."""
    return 0 if value <= limit.degraded else 1 if value <= limit.broken else 2


def _distinct(tokens: list[str], n: int) -> float:
    """Share of the sequences of ``n`` words that are different ones; 1 where there are none."""
    found = list(zip(*(tokens[i:] for i in range(n)), strict=False))
    return len(set(found)) / len(found) if found else 1.0


def _share(items: list, known: set | frozenset) -> float:
    return sum(item in known for item in items) / len(items) if items else 0.0
