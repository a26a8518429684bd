import random

import pytest

from lottery.coherence import verdict
from lottery.corpus import corpus
from lottery.standins.storyworld import Story

TEXT = corpus("stories").text
FRESH = [" ".join(Story(seed).text.split()[30:70]) for seed in (10**15, 10**15 + 1, 10**15 + 2)]


def salad() -> str:
    words = TEXT.split()
    random.Random(0).shuffle(words)
    return " ".join(words[:40])


@pytest.mark.parametrize(
    ("samples", "coherent", "reason"),
    [
        (FRESH, True, "of the word pairs are known"),
        (FRESH[:1], True, "of the word pairs are known"),
        (["the red ball the red ball " * 8] * 3, False, "loops: "),
        ([salad()] * 3, False, "word salad: "),
        (["qzx vrrk plof dnn wuuk trsk blarg hmpf zzt gnah skrr " * 3] * 3, False, "loops: "),
        (["qzx vrrk plof dnn wuuk trsk blarg hmpf zzt gnah skrr"] * 3, False, "not words: "),
        (["\x00\x07\ufffd\ue000" * 20] * 3, False, "noise: 100%"),
        (["!!!!!!!!!!!! .... ,,,, 1234"] * 3, False, "hardly a word: 0 in 3 samples"),
        (["", " \n", ""], False, "empty"),
    ],
)
def test_verdicts_and_their_reasons(samples, coherent, reason):
    found = verdict(samples, TEXT)
    assert found.coherent == coherent, found.reason
    assert reason in found.reason
