import math

import pytest
import torch

from benchmarks.coherence import TUNED, compared, confusion, read, summary
from lottery.data.corpus import corpus, prompts
from lottery.evaluation import coherence
from lottery.evaluation.bootstrap import N_RESAMPLES
from lottery.evaluation.coherence import BROKEN, DEGRADED, VERDICTS, bits_of_new_text, verdict, yardsticks
from lottery.evaluation.generation import bits, bits_per_byte, continuations
from lottery.pruning.prune import prune
from lottery.pruning.variants import Variant
from tests.conftest import ROOT
from tests.test_likelihood import loaded
from tests.test_notebooks import NOTEBOOKS

TEXT = corpus("stories").text
STARTS = prompts(corpus("stories"), 12, 30)
SOUND = [f"Text {i}: the quick brown fox number {i} jumps over a dog that sleeps, and story {i * 7} ends." for i in range(6)]
LOOP = ["and then he said " * 6] * 6
SAME_WORD = ["the " * 30] * 6


def costs(texts, a_byte):
    """Texts that cost the dense model so many bits a byte."""
    return [(text, a_byte * len(text.encode())) for text in texts]


@pytest.mark.parametrize(
    ("texts", "a_byte", "expected", "reason"),
    [
        (SOUND, 0.7, "coherent", "0.70 bits per new byte"),
        (SOUND, 0.9, "coherent", "0.90 bits per new byte"),
        (SOUND, 1.3, "degraded", "1.30 bits per new byte"),
        (SOUND, 2.2, "broken", "2.20 bits per new byte"),
        (SOUND, math.inf, "broken", "inf bits per new byte"),
        (SOUND, math.nan, "broken", "nan bits per new byte"),
        (LOOP, 0.5, "broken", "of the ten-character sequences repeat"),  # 17 of 93 are different: 2.7 bits a new byte
        (SAME_WORD, 0.1, "broken", "96% of the ten-character sequences repeat"),
        ([*SOUND[:3], *LOOP[:3]], 0.7, "degraded", "of the ten-character sequences repeat"),
    ],
)
def test_verdicts_and_why(texts, a_byte, expected, reason):
    found = verdict(costs(texts, a_byte), costs(SOUND, 0.7), 1.3, 2.3)
    assert found.verdict == expected, found
    assert reason in found.reason


@pytest.mark.parametrize("a_byte", [0.0, 0.01, 1.3])
def test_a_dense_model_whose_own_texts_cost_it_nothing_judges_loops_only(a_byte):
    found = verdict(costs(SOUND, a_byte), costs(SOUND, 0.0), 1.3, 2.3)
    assert found.verdict == "coherent"
    assert found.reason.endswith("; the dense model's own texts cost it next to nothing")
    assert verdict(costs(SAME_WORD, a_byte), costs(SOUND, 0.0), 1.3, 2.3).verdict == "broken"


def test_no_text_at_all_is_broken():
    assert verdict([("", 90.0)] * 6, costs(SOUND, 0.7), 1.3, 2.3).verdict == "broken"


def test_a_dense_model_that_babbles_is_not_the_measure_of_all_things():
    """Its own texts cost it as much as shuffled words, while real text is easy for it."""
    assert verdict(costs(SOUND, 2.2), costs(SOUND, 2.2), 0.7, 2.3).verdict == "broken"


@pytest.mark.parametrize("shuffled", [1.6, math.nan])
def test_a_dense_model_that_cannot_tell_text_from_shuffled_words_judges_loops_only(shuffled):
    found = verdict(costs(SOUND, 9.0), costs(SOUND, 0.7), 1.3, shuffled)
    assert found.verdict == "coherent"
    assert "the dense model cannot tell this text from shuffled words" in found.reason
    assert math.isnan(found.surprise)
    assert verdict(costs(SAME_WORD, 9.0), costs(SOUND, 0.7), 1.3, shuffled).verdict == "broken"


def distinct(texts):
    return coherence._mean_distinct(coherence._parts(texts))


def test_measures_against_counting_by_hand():
    assert distinct([("abcdefghijab", 1)]) == 1.0  # three sequences of ten, all different
    assert distinct([("a" * 20, 1), ("abcdefghij", 1)]) == pytest.approx((1 / 11 + 1) / 2)
    assert distinct([("a\n\n b", 1), ("", 1)]) == 1.0  # too short for any
    assert bits_of_new_text([("a" * 20, 10.0), ("abcdefghij", 5.0)]) == pytest.approx(15 / (20 / 11 + 10))
    found = verdict([("abcdefghij", 20.0)], [("abcdefghij", 10.0)], 1.5, 4.0)
    assert found.surprise == pytest.approx(0.5)  # half way from 1 to 4 in the logarithm


def test_no_language_needs_spaces():
    chinese = ["在一个安静的小镇上住着一位面包师，她每天清晨都会烤出香喷喷的面包，孩子们放学以后总喜欢来看她。"] * 6
    assert verdict(costs(chinese, 1.0), costs(chinese, 1.0), 1.2, 3.0).verdict == "coherent"


def test_a_model_falls_from_coherent_to_broken_as_it_is_pruned():
    model, tokenizer = loaded("mistral-7b")
    yards = [bits_per_byte(model, tokenizer, pairs) for pairs in yardsticks(TEXT, 30)]

    def measured(written):
        return [(c.text, bits(model, c.beginning, c.tokens)) for c in written]

    own = measured(continuations(model, tokenizer, STARTS, 50, 0.7))
    assert verdict(own, own, *yards).verdict == "coherent"
    pruned, _ = loaded("mistral-7b")
    prune(pruned, Variant("magnitude", "uniform", "unstructured", 0.8))
    assert verdict(measured(continuations(pruned, tokenizer, STARTS, 50, 0.7)), own, *yards).verdict == "broken"


# What a reader labelled: the rule must agree, above all on the models that its limits were not set on.


def test_there_are_enough_labelled_texts_of_enough_kinds():
    data = read()
    assert len(data) >= 300
    assert set(data["label"]) == set("cdb")
    assert data["model"].nunique() == 8
    assert set(data["how"]) == {"drawn", "greedy"}
    assert data["sparsity"].nunique() == 10
    assert (data["again"] != "").sum() >= 60
    assert (ROOT / "benchmarks" / "coherence.csv").stat().st_size < 300_000


def test_verdicts_are_those_of_a_reader():
    variants = compared(read())
    unseen = variants[~variants["model"].isin(TUNED)]
    assert len(unseen) >= 30
    assert (unseen["label"] == unseen["verdict"]).mean() >= 0.9
    steps = variants["label"].map(VERDICTS.index) - variants["verdict"].map(VERDICTS.index)
    assert steps.abs().max() <= 1, "none is off by two steps"
    assert not ((variants["label"] == "broken") & (variants["verdict"] == "coherent")).any()
    assert (variants.loc[variants["method"] == "dense", "verdict"] == "coherent").all()


def test_where_the_verdict_hangs_on_which_texts_were_drawn_both_are_named():
    variants = compared(read())
    assert all(label in said for label, said in zip(variants["label"], variants["said"], strict=True)), "the reader's is among them"
    doubtful = variants["said"] != variants["verdict"]
    assert 0.05 < doubtful.mean() < 0.25, "few, or they would say nothing"
    near = variants["surprise"].map(lambda at: min(abs(at - DEGRADED), abs(at - BROKEN)))
    assert near[doubtful].median() < near[~doubtful].median()
    even = [*costs(SOUND[:3], 0.7), *costs(SOUND[3:], 1.6)]
    found = verdict(even, costs(SOUND, 0.7), 1.3, 2.3)
    assert found.said in ("coherent, perhaps degraded", "degraded, perhaps coherent")
    assert verdict(costs(SOUND, 0.7), costs(SOUND, 0.7), 1.3, 2.3).said == "coherent"


def test_the_page_of_the_comparison_is_what_the_labels_say():
    data = read()
    assert (ROOT / "docs" / "coherence.md").read_text() == summary(data)
    variants = compared(data)
    table = confusion(variants[~variants["model"].isin(TUNED)])
    assert table.count("\n") == 4
    method = next(c.source for c in NOTEBOOKS["report"].cells if c.source.startswith("## Method\n"))
    assert table in method, "the report's method has the same table"
    assert f"Up to {DEGRADED}, texts are coherent; above {BROKEN:.2f}, they are broken" in method
    assert f"with replacement, {N_RESAMPLES:,} times" in method


def test_yardsticks_are_stretches_of_the_text_and_the_same_words_shuffled():
    real, mixed = yardsticks(TEXT, 30)
    assert len(real) == len(mixed) == 20
    for (beginning, stretch), (same, shuffled_stretch) in zip(real, mixed, strict=True):
        assert beginning + stretch in TEXT
        assert same == beginning
        assert sorted(shuffled_stretch.split()) == sorted(stretch.split())
    assert yardsticks(TEXT, 30) == (real, mixed)
    assert yardsticks("Only six words are in here.", 3)[0][0] == ("Only six words", " are in here.")


def test_bits_per_byte_of_a_text_against_its_definition():
    model, tokenizer = loaded("qwen2.5-0.5b")
    beginning, text = STARTS[0], " and then they walked home to the old mill."
    tokens = tokenizer(beginning + text, return_tensors="pt").input_ids
    known = len(tokenizer(beginning).input_ids)
    with torch.no_grad():
        logs = model(input_ids=tokens).logits[0].double().log_softmax(-1)
    expected = -sum(float(logs[i - 1, tokens[0, i]]) for i in range(known, tokens.shape[1])) / math.log(2) / len(text.encode())
    assert bits_per_byte(model, tokenizer, [(beginning, text)]) == pytest.approx(expected, rel=1e-5)
    assert bits_per_byte(model, tokenizer, [("x", "")]) == math.inf


def test_a_word_that_is_cut_between_beginning_and_text_is_scored_whole():
    """A token that begins in the beginning and ends in the text was once not scored, though its bytes were counted."""
    model, tokenizer = loaded("qwen2.5-0.5b")
    whole = STARTS[0] + " walked home"
    offsets, ids = tokenizer(whole, return_offsets_mapping=True).offset_mapping, tokenizer(whole).input_ids
    start, end = next((s, e) for s, e in reversed(offsets) if e - s >= 3)
    cut = end - 1  # in the middle of that token
    known = next(i for i, (s, _) in enumerate(offsets) if s == start)
    expected = bits(model, ids[:known], ids[known:]) / len(whole[cut:].encode())
    assert bits_per_byte(model, tokenizer, [(whole[:cut], whole[cut:])]) == pytest.approx(expected)
