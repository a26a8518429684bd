"""Which model loses least at a sparsity, and whether that is shown: texts whose truth is known."""

import numpy as np
import pytest

from lottery.analysis.least_lost import least_lost
from lottery.evaluation.bootstrap import to_bits_per_byte
from lottery.report.sentences import sentences
from tests.factory import record_of

WINDOWS = 40


def model(name: str, factor: float, spread: float = 0.0, seed: int = 0, sparsities=(0.5,), windows: int = WINDOWS, floor: float = 9.0):
    """A dense record, and one at each sparsity whose windows cost ``factor`` times as much, give or take ``spread`` in each."""
    chance = np.random.default_rng(seed)
    dense = chance.uniform(0.8, 1.2, windows)
    found = [made(name, "dense", 0.0, dense)]
    found[0].result.window_unigram = [floor] * windows
    for sparsity in sparsities:
        found.append(made(name, "magnitude", sparsity, dense * factor * (1 + spread * chance.standard_normal(windows))))
    return {name: found}


def made(name: str, method: str, sparsity: float, nll: np.ndarray):
    bits = to_bits_per_byte(nll.sum(), 20 * len(nll))
    return record_of(name, method, sparsity, windows=len(nll), window_nll=nll.tolist(), bits_per_byte=bits)


def test_the_least_is_named_with_its_factor_and_told_apart():
    (at,) = least_lost(model("good", 1.2, 0.02) | model("bad", 1.4, 0.02, seed=1) | model("worse", 2.0, 0.02, seed=2), [0.5])
    assert (at.model, at.rivals, at.others, at.few) == ("good", [], 2, False)
    assert at.factor.ratio == pytest.approx(1.2, rel=0.01)
    assert at.factor.low < at.factor.ratio < at.factor.high
    assert sentences("least_lost", found=[at]).startswith("At 50% good loses least: its text costs 1.2")
    assert "told apart" not in sentences("least_lost", found=[at])


def test_what_lies_within_the_error_is_no_loser():
    (at,) = least_lost(model("one", 1.20, 0.2) | model("other", 1.22, 0.2, seed=1) | model("bad", 3.0, 0.2, seed=2), [0.5])
    assert at.rivals == [{"one": "other", "other": "one"}[at.model]]
    assert sentences("least_lost", found=[at]).endswith(f"; {at.rivals[0]} cannot be told apart from it.")


def test_models_that_lose_the_same_are_hardly_ever_told_apart():
    """Three equal models at two sparsities: in at most one study in 20 is any pair told apart."""
    told = 0
    for study in range(60):
        same = {}
        for i in range(3):
            same |= model(f"m{i}", 1.3, 0.1, seed=1000 * study + i, sparsities=(0.5, 0.7))
        told += any(len(at.rivals) < at.others for at in least_lost(same, [0.5, 0.7]))
    assert told <= 6  # binomial: more than that in one of 30 at a rate of 5%


def test_few_windows_tell_nothing_apart_and_one_model_is_not_compared():
    few = model("good", 1.2, windows=4) | model("bad", 4.0, windows=4)
    (at,) = least_lost(few, [0.5])
    assert at.rivals == ["bad"]
    assert sentences("least_lost", found=[at]) == (
        "At 50% good loses least: its text costs 1.20 times the dense model's bits per byte; bad cannot be told apart from it."
        " There are too few windows to tell models apart."
    )
    assert least_lost(model("alone", 1.2), [0.5]) == []
    assert sentences("least_lost", found=[]) == ""


def test_what_predicts_worse_than_token_frequencies_is_not_ranked():
    blind = model("blind", 3.0, 0.02, floor=2.0)
    (at,) = least_lost(blind | model("bad", 5.0, 0.02, seed=1, floor=2.0), [0.5])
    assert at.model is None
    assert sentences("least_lost", found=[at]) == "At 50% every model predicts worse than token frequencies alone."
    (at,) = least_lost(blind | model("good", 4.0, 0.02, seed=1, floor=9.0), [0.5])
    assert (at.model, at.rivals, at.others) == ("good", [], 0), "it loses more than the other, and is of use"


def test_only_models_that_were_measured_at_a_sparsity_are_compared_there():
    found = least_lost(model("both", 1.2, sparsities=(0.5, 0.7)) | model("one", 1.5, seed=1), [0.5, 0.7])
    assert [at.sparsity for at in found] == [0.5]
