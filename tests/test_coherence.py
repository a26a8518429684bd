import math
import random

import pytest
import torch

from lottery.coherence import reference, verdict, yardsticks
from lottery.corpus import corpus
from lottery.generation import bits_per_byte, generate, sampler
from lottery.methods import Variant
from lottery.pruning import prune
from lottery.standins.storyworld import Story
from tests.test_likelihood import loaded

TEXT = corpus("stories").text
FRESH = [Story(seed).text.split() for seed in (10**15, 10**15 + 1, 10**15 + 2)]  # stories of the same world, in neither text
BEGINNINGS = [" ".join(words[:30]) for words in FRESH]
REAL = [" " + " ".join(words[30:70]) for words in FRESH]


def shuffled(text: str) -> str:
    words = text.split()
    random.Random(0).shuffle(words)
    return " " + " ".join(words)


@pytest.fixture(scope="module")
def judge():
    """A dense model, and its bits on real and shuffled stretches of the test text."""
    model, tokenizer = loaded("mistral-7b")
    real, mixed = (bits_per_byte(model, tokenizer, pairs) for pairs in yardsticks(TEXT, 30))

    def judged(samples: list[str]):
        bits = bits_per_byte(model, tokenizer, list(zip(BEGINNINGS, samples, strict=False)))
        return verdict(samples, TEXT, bits, real, mixed)

    return judged


@pytest.mark.parametrize(
    ("samples", "expected", "reason"),
    [
        (REAL, "coherent", "the dense model needs"),
        (REAL[:1], "coherent", "the dense model needs"),
        ([shuffled(text) for text in REAL], "broken", "word salad: "),
        ([REAL[0], REAL[1], shuffled(REAL[2])], "degraded", "word salad: "),
        ([" and then he said" * 10] * 3, "broken", "loops: 89% of the word 4-grams repeat"),
        ([" the" * 40] * 3, "broken", "loops: "),
        ([" qzx vrrk plof dnn wuuk trsk blarg hmpf zzt gnah skrr"] * 3, "broken", "not words: 0%"),
        (["\x00\x07\ufffd\ue000" * 20] * 3, "broken", "noise: 100%"),
        ([text + "\ufffd" * 5 for text in REAL], "degraded", "noise: "),
        (["!!!!!!!!!!!! .... ,,,, 1234"] * 3, "broken", "hardly a word: 0 in 3 samples"),
        (["", " \n", ""], "broken", "empty"),
    ],
)
def test_verdicts_and_the_measure_that_decides(judge, samples, expected, reason):
    found = judge(samples)
    assert found.verdict == expected, found.reason
    assert reason in found.reason


def test_measures_against_counting_by_hand():
    found = verdict(["a b c d a b c d", "x"], "a b c d " * 100, 1.0, 1.0, 3.0)
    # The first sample has five 4-grams, four of them different, and seven pairs, four of them different; the second has neither.
    assert found.repeated_4grams == pytest.approx((1 / 5 + 0) / 2)
    assert found.distinct_2 == pytest.approx((4 / 7 + 1) / 2)
    assert found.known_words == pytest.approx(8 / 9)


def test_a_dense_model_that_cannot_tell_text_from_shuffled_words_does_not_judge():
    found = verdict(REAL, TEXT, 9.0, 4.0, 4.4)
    assert found.verdict == "coherent"
    assert "cannot tell this text from shuffled words" in found.reason


def test_a_model_falls_from_coherent_to_broken_as_it_is_pruned(judge):
    def texts(model, tokenizer):
        found = []
        for index, beginning in enumerate(BEGINNINGS):
            prompt = tokenizer(beginning, return_tensors="pt").input_ids
            tokens = generate(model, prompt, 50, sampler(0.7, index, tokenizer.all_special_ids)).tokens
            found.append(tokenizer.decode(tokens, skip_special_tokens=True))
        return found

    model, tokenizer = loaded("mistral-7b")
    assert judge(texts(model, tokenizer)).verdict == "coherent"
    prune(model, Variant("magnitude", "uniform", "unstructured", 0.8))
    assert judge(texts(model, tokenizer)).verdict == "broken"


def test_yardsticks_are_stretches_of_the_text_and_the_same_words_shuffled():
    real, mixed = yardsticks(TEXT, 30)
    assert len(real) == len(mixed) == 20
    for (beginning, stretch), (same, shuffled_stretch) in zip(real, mixed, strict=True):
        assert beginning + stretch in TEXT
        assert same == beginning
        assert sorted(shuffled_stretch.split()) == sorted(stretch.split())
    assert yardsticks(TEXT, 30) == (real, mixed)
    assert yardsticks("Only six words are in here.", 3)[0][0] == ("Only six words", " are in here.")


def test_the_reference_knows_itself():
    known, share = reference("a b c a b d")
    assert known == {"a", "b", "c", "d"}
    assert share == pytest.approx(2 / 3)


def test_bits_per_byte_of_a_text_against_its_definition():
    model, tokenizer = loaded("qwen2.5-0.5b")
    tokens = tokenizer(BEGINNINGS[0] + REAL[0], return_tensors="pt").input_ids
    known = len(tokenizer(BEGINNINGS[0]).input_ids)
    with torch.no_grad():
        logs = model(input_ids=tokens).logits[0].double().log_softmax(-1)
    expected = -sum(float(logs[i - 1, tokens[0, i]]) for i in range(known, tokens.shape[1])) / math.log(2) / len(REAL[0].encode())
    assert bits_per_byte(model, tokenizer, [(BEGINNINGS[0], REAL[0])]) == pytest.approx(expected, rel=1e-5)
    assert bits_per_byte(model, tokenizer, [("x", "")]) == math.inf
