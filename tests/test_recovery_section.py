"""What the report says of retraining, on records whose truth is known."""

import math

import numpy as np
import pytest

from lottery.analysis.recovery import recovered, recoveries
from lottery.common.format import NBSP
from lottery.report.sections.recovery import by_variant, told
from tests.factory import record_of

rng = np.random.default_rng(0)
WINDOWS, NOISE = 20, rng.normal(0, 0.02, 20)


def one(method, sparsity, bits, noise=0.0, windows=WINDOWS, **more):
    own = rng.normal(0, noise, WINDOWS) if noise else 0
    nll = list(bits * (1 + NOISE + own))[:windows]
    return record_of("m", method, sparsity, bits_per_byte=bits, windows=windows, window_nll=nll, **more)


def study(masked=1.3, elsa=1.2, control=1.02, noise=0.0, windows=WINDOWS, **more):
    more["windows"] = windows
    return [
        one("dense", 0.0, 1.0, windows=windows),
        one("alps", 0.7, 1.5, windows=windows),
        one("retrained", 0.0, control, recovery="masked", **more),
        one("alps", 0.7, masked, recovery="masked", **more),
        one("alps", 0.7, elsa, noise, recovery="elsa", **more),
    ]


def text(records):
    return "\n".join(told(recovered(records))).replace(NBSP, " ")


def test_each_is_compared_with_its_start_and_with_the_same_tokens_masked():
    found = recovered(study())
    assert list(found["title"].str.replace(NBSP, " ")) == ["dense + masked", "alps 70% + masked", "alps 70% + elsa"]
    assert list(found["before"]) == pytest.approx([1.0, 1.5, 1.5])
    assert [math.isnan(value) for value in found["beside_masked"]] == [True, True, False]
    assert found["beside_masked"][2] == pytest.approx(1.2 / 1.3)
    assert found["beside_masked_low"][2] <= 1.2 / 1.3 <= found["beside_masked_high"][2]
    assert list(found["tokens"]) == [100 * 4 * 512] * 3


def test_how_many_zeros_moved_is_shown_where_it_was_measured():
    records = study()
    assert "Zeros moved" not in by_variant(recovered(records))
    records[-1].result.recovery_moved, records[-2].result.recovery_moved = 0.125, 0.0
    header, _, *rows = (line.split("|") for line in by_variant(recovered(records)).splitlines()[:5])
    column = [name.strip() for name in header].index("Zeros moved")
    assert [row[column].strip() for row in rows] == ["", "0%", "12.5%"]


def test_the_tokens_that_chose_a_learning_rate_are_counted_too():
    records = study()
    assert "choosing" not in by_variant(recovered(records))
    several = records[-1].request.model_copy(update={"recover_learning_rate": [1e-4, 3e-4, 1e-3]})
    found = by_variant(recovered([*records[:-1], records[-1].model_copy(update={"request": several})]))
    assert f"{100 * 4 * 512:,} + {3 * 12 * 4 * 512:,}" in found
    assert "Tokens: of the retraining, and of choosing its learning rate; seconds are of both." in found


def test_what_starts_dense_is_compared_with_the_best_masked_of_as_many_zeros():
    more = [
        one("wanda", 0.7, 1.25, recovery="masked"),
        one("wanda", 0.8, 1.1, recovery="masked"),
        one("wanda", 0.7, 1.01, recovery="masked", loss="distillation"),
        one("retrained", 0.7, 1.1, recovery="elsa"),
    ]
    found = recovered([*study(), *more]).set_index("title")
    assert found.loc["elsa 70%".replace(" ", NBSP), "beside_masked"] == pytest.approx(1.1 / 1.25)
    assert found.loc["alps 70% + elsa".replace(" ", NBSP), "beside_masked"] == pytest.approx(1.2 / 1.3), "its own start's"


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ({}, "alps 70% + masked needs 1.30 times the dense bits, alps 70% + elsa 1.20: 0.923 times as many (95%: 0.923 to 0.923), so alps 70% + elsa predicts better."),
        ({"elsa": 1.4}, "so alps 70% + masked predicts better."),
        ({"elsa": 1.3, "noise": 0.1}, "so the two cannot be told apart."),
        ({"control": 1.02}, "m**, retrained on 204,800 tokens:\n- The dense model needs 1.020 times the bits that it needed before (95%: 1.020 to 1.020): retraining by itself makes it worse."),
        ({"control": 0.9}, "retraining by itself makes it better, so not all that pruned models gain is recovery."),
        ({"masked": math.inf}, "alps 70% + masked needs ∞ times the dense bits, alps 70% + elsa 1.20: 0.00 times as many (95%: 0.00 to 0.00), so alps 70% + elsa predicts better."),
        ({"elsa": math.inf}, "alps 70% + elsa ∞: ∞ times as many, so alps 70% + masked predicts better."),
        ({"loss": "distillation"}, "alps 70% + elsa (distilled) predicts better."),
    ],
)  # fmt: skip
def test_the_sentences_follow_from_the_intervals(case, said):
    assert said in text(study(**case))


def test_the_best_of_each_kind_are_compared_whatever_they_started_from():
    """The best that moves zeros beats its own start's masked twin, and not the best masked one."""
    records = study(masked=1.2, elsa=1.32)
    records += [one("wanda", 0.7, 1.4, recovery="masked"), one("wanda", 0.7, 1.3, recovery="elsa")]
    said = text(records)
    assert "alps 70% + masked needs 1.20 times the dense bits, wanda 70% + elsa 1.30: 1.083 times as many" in said
    assert ", the best of 4 pairs, so alps 70% + masked predicts better." in said


def test_the_best_of_several_is_not_called_better_for_being_the_luckiest(few_draws):
    """Four that move zeros, all of them as good as the masked one: plain intervals call the best of them better in 6 of 100 studies."""
    drawn, called = np.random.default_rng(5), 0

    def noisy(method, sparsity, bits, base, **more):
        nll = bits * (1 + base + drawn.normal(0, 0.02, WINDOWS))
        return record_of("m", method, sparsity, bits_per_byte=float(nll.mean()), windows=WINDOWS, window_nll=list(nll), **more)

    for _ in range(150):
        base = drawn.normal(0, 0.02, WINDOWS)
        records = [noisy("dense", 0.0, 1.0, base), noisy("alps", 0.7, 1.3, base, recovery="masked")]
        records += [noisy(start, 0.7, 1.3, base, recovery=how) for start in ("alps", "retrained") for how in ("elsa", "elsa-identity")]
        (contest,) = recoveries(recovered(records))[0].contests
        assert contest.pairs == 4
        called += contest.winner == contest.other
    assert called <= 0.025 * 150


def test_with_both_losses_there_are_two_controls():
    both = text([*study(), *study(loss="distillation", control=1.0)[2:]])
    assert (
        "learned from the text and needs 1.020 times the bits that it needed before (95%: 1.020 to 1.020): retraining by itself makes"
        in both
    )
    assert "learned from its own predictions and needs 1.000 times the bits that it needed before (95%: 1.000 to 1.000)." in both


def test_a_rate_at_the_edge_of_those_tried_is_marked():
    records = study()
    several = records[-1].request.model_copy(update={"recover_learning_rate": [1e-5, 1e-4]})
    found = by_variant(recovered([*records[:-1], records[-1].model_copy(update={"request": several})])).replace(NBSP, " ")
    assert found.count("| ≥ 0.0001 |") == 1
    assert "the highest (≥) or the lowest (≤) did best" in found
    assert "≥" not in by_variant(recovered(records))


def test_without_a_control_each_model_is_still_named():
    records = [record for record in study() if record.request.method != "retrained"]
    assert "**m**, retrained on 204,800 tokens:\n- alps 70% + masked needs" in text(records)


def test_without_windows_for_an_interval_nothing_is_decided():
    assert "0.923 times as many, with too few windows to tell them apart." in text(study(windows=2))
    assert "nan" not in text(study(windows=2))


def test_without_any_record_there_is_nothing_to_tell():
    assert recovered([]).empty


def test_where_nothing_moves_zeros_only_the_masked_one_is_told():
    assert "alps 70% + masked needs 1.30 times the dense bits." in text(study()[:4])
    assert recovered(study()[:2]).empty


def test_the_table_has_a_row_for_each_with_its_budget():
    lines = by_variant(recovered(study())).replace(NBSP, " ").splitlines()
    rows = [line for line in lines if "masked](" in line or "elsa](" in line]
    assert len(rows) == 3
    assert "204,800" in rows[0]
    assert "1.50" in rows[1]
    assert [len(found.contests) for found in recoveries(recovered(study()))] == [1]
