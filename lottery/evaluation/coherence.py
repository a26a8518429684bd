"""Whether a model's texts still read like language, judged against its dense self. Numbers and text only: no model, no torch.

The one measure is how many bits the dense model needs for each byte of *new* text. It is placed on a logarithmic scale from what the dense
model needs for sound text (0) to what it needs for words in disorder (1).

- A loop is easy to predict, so its bytes would make any text look sound. Repeated text does not count as new: a text's bytes are multiplied
  by the share of its ten-character sequences that are distinct. The measure uses characters and not words, since many languages write no
  spaces.
- Sound text is what the dense model wrote itself after the same beginnings, or real text if the dense model finds that easier: a dense
  model that babbles must not set the standard. Words in disorder are those of real text, shuffled.

So nothing is tuned to a model, a corpus or a language. Only drawn texts are judged: greedy decoding loops even where a model is sound. The
limits were set on texts that were read; ``benchmarks/coherence.py`` checks them on models that they were not set on.
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
_STRETCHES, _STRETCH_WORDS = 20, 40

VERDICTS = ("coherent", "degraded", "broken")

Costs = Sequence[tuple[str, float]]  # texts, and the dense model's surprise at each in bits


class Verdict(NamedTuple):
    """A judgement of texts.

    Attributes:
        verdict: One of ``VERDICTS``.
        reason: Why.
        surprise: Where the texts are on the scale from sound text (0) to words in disorder (1).
    """

    verdict: str
    reason: str
    surprise: float


def yardsticks(text: str, beginning: int) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Take stretches from all over a text, each after a beginning, as they are and with their words shuffled.

    Args:
        text: A real text.
        beginning: Words per beginning.

    Returns:
        The real pairs of beginning and stretch, and the same with shuffled stretches.
    """
    spans = [match.span() for match in re.finditer(r"\S+", text)]
    length = min(_STRETCH_WORDS, max(1, len(spans) - beginning))
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
    repeated = f"{1 - distinct(texts):.0%} of the ten-character sequences repeat"
    if not shuffled >= CAN_JUDGE * real:  # also where they are not numbers
        looped = distinct(texts) < LOOPS * distinct(dense)
        return Verdict(
            "broken" if looped else "coherent", f"{repeated}; the dense model cannot tell this text from shuffled words", math.nan
        )
    cost, own = bits_of_new_text(texts), bits_of_new_text(dense)
    sound = min(own, real)
    surprise = (
        math.log(cost / sound) / math.log(shuffled / sound) if 0 < cost < math.inf and sound < shuffled else math.inf
    )  # also where it is no number
    said = VERDICTS[0 if surprise <= DEGRADED else 1 if surprise <= BROKEN else 2]
    loops = f", {repeated}" if distinct(texts) < 0.8 else ""
    reason = f"{cost:.2f} bits per new byte{loops}"
    return Verdict(said, reason, surprise)


def bits_of_new_text(texts: Costs) -> float:
    """Return the dense model's bits per byte of what texts do not repeat; infinite if there is no text."""
    new = sum(len(text.encode()) * _distinct(text) for text, _ in texts)
    return sum(bits for _, bits in texts) / new if new else math.inf


def distinct(texts: Costs) -> float:
    """Return the share of a text's ten-character sequences that are distinct, the mean over several texts; white space counts once."""
    return sum(_distinct(text) for text, _ in texts) / max(1, len(texts))


def _distinct(text: str) -> float:
    text = " ".join(text.split())
    found = [text[i : i + _GRAM] for i in range(len(text) - _GRAM + 1)]
    return len(set(found)) / len(found) if found else 1.0
