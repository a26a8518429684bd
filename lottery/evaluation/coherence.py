"""Whether a model's texts still read like language, judged against its dense self. Numbers and text only: no model, no torch.

The one measure is how many bits the dense model needs for each byte of *new* text. It is placed on a logarithmic scale from what the dense
model needs for sound text (0) to what it needs for words in disorder (1).

- A loop is easy to predict, so its bytes would make any text look sound. Repeated text does not count as new: a text's bytes are multiplied
  by the share of its ten-character sequences that are distinct. The measure uses characters and not words, since many languages write no
  spaces.
- Sound text is what the dense model wrote itself after the same beginnings, or real text if the dense model finds that easier: a dense
  model that babbles must not set the standard. Words in disorder are those of real text, shuffled.

So the measure itself knows of no model, corpus or language. Only drawn texts are judged: greedy decoding loops even where a model is
sound. The limits were set on texts that were read; ``benchmarks/coherence.py`` checks them on models that they were not set on.
"""

import math
import random
import re
from collections.abc import Sequence
from typing import NamedTuple

CAN_JUDGE = 1.3  # shuffled words must cost the dense model so many times the bits of real ones
DEGRADED, BROKEN = 0.28, 0.80  # on the way from sound text to words in disorder
LOOPS = 0.5  # of the dense texts' different sequences: with fewer, texts are broken also where the dense model cannot judge
_GRAM = 10  # characters
_STRETCHES, STRETCH_WORDS = 20, 40
_RESAMPLES = 400
NOTHING = 0.1  # of real text's bits: where the dense model's own texts cost less, no other text can be held against them

VERDICTS = ("coherent", "degraded", "broken")

Costs = Sequence[tuple[str, float]]  # texts, and the dense model's surprise at each in bits


class Verdict(NamedTuple):
    """A judgement of texts.

    Attributes:
        verdict: One of ``VERDICTS``.
        reason: Why.
        surprise: Where the texts are on the scale from sound text (0) to words in disorder (1).
        others: Verdicts that as many other texts of the same model might get as well: those of at least one in 20 resampled sets of texts.
    """

    verdict: str
    reason: str
    surprise: float
    others: tuple[str, ...] = ()

    @property
    def said(self) -> str:
        """The verdict, then those that are possible, too, as in 'degraded, perhaps broken'."""
        return ", perhaps ".join([self.verdict, *self.others])


def yardsticks(text: str, beginning: int) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Take stretches from all over a text, each after a beginning, as they are and with their words shuffled.

    Args:
        text: A real text.
        beginning: Words per beginning.

    Returns:
        The real pairs of beginning and stretch, and the same with shuffled stretches.
    """
    spans = [match.span() for match in re.finditer(r"\S+", text)]
    length = min(STRETCH_WORDS, max(1, len(spans) - beginning))
    places = range(0, max(1, len(spans) - beginning - length), max(1, len(spans) // _STRETCHES))
    shuffle, real, shuffled = random.Random(0), [], []
    for place in list(places)[:_STRETCHES]:
        begun = spans[min(place + beginning, len(spans)) - 1][1]
        stretch = text[begun : spans[min(place + beginning + length, len(spans)) - 1][1]]
        mixed = stretch.split()
        shuffle.shuffle(mixed)
        real.append((text[spans[place][0] : begun], stretch))
        shuffled.append((real[-1][0], " " + " ".join(mixed)))
    return real, shuffled


def verdict(texts: Costs, dense: Costs, real: float, shuffled: float) -> Verdict:
    """Judge whether texts are coherent, degraded or broken, and why.

    Args:
        texts: A variant's drawn texts without their beginnings.
        dense: What the dense model wrote after the same beginnings.
        real: The dense model's bits per byte on the real stretches of ``yardsticks``.
        shuffled: The dense model's bits per byte on the shuffled stretches of ``yardsticks``.

    Returns:
        The verdict, its reason, and the texts' place on the scale.
    """
    own, of_dense = _parts(texts), _parts(dense)
    said, surprise = _judged(own, of_dense, real, shuffled)
    repeated = f"{1 - _mean_distinct(own):.0%} of the ten-character sequences repeat"
    if math.isnan(surprise):
        why = "'s own texts cost it next to nothing" if shuffled >= CAN_JUDGE * real else " cannot tell this text from shuffled words"
        reason = f"{repeated}; the dense model{why}"
    else:
        reason = f"{_bits_per_new_byte(own):.2f} bits per new byte" + (f", {repeated}" if _mean_distinct(own) < 0.8 else "")
    return Verdict(said, reason, surprise, _others(said, own, of_dense, real, shuffled))


def bits_of_new_text(texts: Costs) -> float:
    """Return the dense model's bits per byte of what texts do not repeat; infinite if there is no text."""
    return _bits_per_new_byte(_parts(texts))


class _Part(NamedTuple):
    """What counts of one text: its bytes that are new, the dense model's bits, the share of its sequences that are distinct."""

    new: float
    bits: float
    distinct: float


def _parts(texts: Costs) -> list[_Part]:
    return [_Part(len(text.encode()) * (share := _distinct(text)), bits, share) for text, bits in texts]


def _judged(own: list[_Part], dense: list[_Part], real: float, shuffled: float) -> tuple[str, float]:
    """Return the verdict and the place on the scale, which is not a number where the dense model cannot judge."""
    cost, sound = _bits_per_new_byte(own), min(_bits_per_new_byte(dense), real)
    if not shuffled >= CAN_JUDGE * real or sound < NOTHING * real:  # also where they are not numbers
        return ("broken" if _mean_distinct(own) < LOOPS * _mean_distinct(dense) else "coherent"), math.nan
    surprise = (
        math.log(cost / sound) / math.log(shuffled / sound) if 0 < cost < math.inf and sound < shuffled else math.inf
    )  # also where it is no number
    return VERDICTS[0 if surprise <= DEGRADED else 1 if surprise <= BROKEN else 2], surprise


def _others(said: str, own: list[_Part], dense: list[_Part], real: float, shuffled: float) -> tuple[str, ...]:
    """Return which other verdicts at least one in 20 resampled sets of texts get; a text and the dense model's are drawn together."""
    chance, seen = random.Random(0), dict.fromkeys(VERDICTS, 0)
    for _ in range(_RESAMPLES):
        drawn = [chance.randrange(len(own)) for _ in own]
        beside = [dense[i] for i in drawn] if len(dense) == len(own) else dense
        seen[_judged([own[i] for i in drawn], beside, real, shuffled)[0]] += 1
    return tuple(name for name in VERDICTS if name != said and seen[name] >= _RESAMPLES / 20)


def _bits_per_new_byte(parts: list[_Part]) -> float:
    new = sum(part.new for part in parts)
    return sum(part.bits for part in parts) / new if new else math.inf


def _mean_distinct(parts: list[_Part]) -> float:
    return sum(part.distinct for part in parts) / max(1, len(parts))


def _distinct(text: str) -> float:
    """Return the share of a text's ten-character sequences that are distinct; white space counts once."""
    text = " ".join(text.split())
    found = [text[i : i + _GRAM] for i in range(len(text) - _GRAM + 1)]
    return len(set(found)) / len(found) if found else 1.0
