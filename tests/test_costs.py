"""What is said of speed and memory, and what zeros save."""

import math

import pytest

from lottery.analysis import costs
from lottery.analysis.frame import frame
from lottery.report import tables
from lottery.report.sections import savings
from lottery.report.sentences import paragraphs, sentences
from tests.factory import record_of, savings_of, timed


def data(*sweeps):
    return frame([record for sweep in sweeps for record in sweep])


def told(found) -> str:
    return sentences("speed", speeds=costs.dense_speeds(found), shares=costs.bandwidth_shares(found))


def test_speeds_are_compared_with_the_dense_model_beside_them():
    """However the machine's pace changes between trials."""
    slower = record_of("a", "magnitude", 0.9, speed=51.0, dense_speed=50.0)
    found = data([*timed("a", 0.97), slower])
    assert math.isnan(found["speed_ratio"][0])
    assert list(found["speed_ratio"][1:]) == pytest.approx([0.97, 1.02])
    # Three repeats, 1% around the median, of both: the slowest over the fastest, the fastest over the slowest.
    assert (found["speed_ratio_low"][1], found["speed_ratio_high"][1]) == pytest.approx((0.97 * 0.99 / 1.01, 0.97 * 1.01 / 0.99))
    said = told(found)
    assert "as multiples of those of the dense model timed right after each: a 0.970 to 1.02. No variant of a is shown to" in said


def test_ratios_on_one_side_are_no_chance_once_there_are_many():
    found = data([*timed("a", 0.9, 0.95), *timed("b", *[1.1] * 6), *timed("c", 1.2), *timed("d", 0.9, 1.1)])
    said = told(found)
    assert "a 0.900 to 0.950; b 1.10; c 1.20; d 0.900 to 1.10." in said
    assert "All 6 ratios of b lie above 1, which chance alone does in 3.1% of cases." in said
    assert "No variant of a, c, d is shown to be faster or slower." in said


def test_what_was_not_timed_is_not_told():
    records = timed("a", 1.0)
    for record in records:
        record.result.speed = record.result.dense_speed = None
    assert "Tokens per second" not in told(data(records))


def test_several_devices_do_not_compare():
    mixed = data([record_of("a", "dense", 0), record_of("a", "magnitude", 0.5, device="another")])
    said = sentences("several_devices", found=costs.on_several_devices(mixed))
    assert said.startswith("**Not one measurement.** The variants of a were measured on a CPU in float32 and another in float32: their")
    assert sentences("several_devices", found=costs.on_several_devices(data(timed("a", 1.0)))) == ""


def test_the_share_of_the_bandwidth_is_that_of_the_bytes_read():
    # 100 tokens a second, 4,000 bytes each, of 10⁹ bytes a second.
    assert "dense: a 0.04%." in told(data([record_of("a", "dense", 0)]))
    assert "dense: a 40%." in told(data([record_of("a", "dense", 0, parameters=10**6)]))


def saved(model, *of_levels, kind="hub", dense=100.0):
    """The dense model and its variants at 50, 70 and 90%, each with its tokens per second by packed weights in each round."""
    levels = [record_of(model, "dense", 0.0, savings=savings_of())]
    for sparsity, rounds in zip((0.5, 0.7, 0.9), of_levels, strict=False):
        levels.append(record_of(model, "magnitude", sparsity, savings=savings_of(rounds, dense, stored=1.1 - sparsity)))
    return [record.model_copy(update={"kind": kind}) for record in levels]


def of_savings(records) -> str:
    return "\n".join(paragraphs("savings", found=costs.model_savings(data(records)), obstacles=savings.obstacles({"a": records})))


def test_packed_speeds_are_medians_of_rounds_with_their_spread():
    found = data(saved("a", [90, 120, 150]))
    assert math.isnan(found["sparse_speed"][0]), "a dense model has nothing to pack"
    assert list(found.loc[1, ["sparse_speed_low", "sparse_speed", "sparse_speed_high"]]) == pytest.approx([0.9, 1.2, 1.5])
    assert found["stored_ratio"][1] == pytest.approx(0.6)
    assert found["memory_ratio"][1] == pytest.approx(0.6)


def test_zeros_pay_from_where_no_higher_sparsity_is_slower():
    fast, slow, wide = [150, 160, 170], [80, 90, 95], [90, 160, 170]
    first = {name: costs.model_savings(data(saved("a", *levels)))[0].pays_from for name, levels in {
        "all": (fast, fast, fast), "from 70": (slow, fast, fast), "a wide spread": (wide, fast, fast), "not the last": (fast, fast, slow),
    }.items()}  # fmt: skip
    assert first == {"all": 0.5, "from 70": 0.7, "a wide spread": 0.7, "not the last": None}


def test_the_sentence_names_bytes_speed_and_where_it_pays():
    said = of_savings(saved("a", [90, 95, 99], [150, 160, 170]))
    assert said == (
        "- **a**: at 50% and 70% its weights take 60% and 40% of the dense ones' bytes in a file. In memory they take 60% and 40%, and it"
        " writes 0.950 (0.900 to 0.990) and 1.60 (1.50 to 1.70) times as fast. Here zeros pay from 70% on."
    )


def test_a_stand_in_is_said_to_gain_nothing():
    assert of_savings(saved("a", [150, 160, 170], kind="stand-in")).endswith("where reading fewer of them gains nothing.")


def test_what_could_not_be_timed_is_said_with_the_reason():
    records = [record_of("a", "dense", 0.0), record_of("a", "magnitude", 0.5, savings=savings_of([1, 1, 1], obstacle="there is no kernel"))]
    said = of_savings([record.model_copy(update={"kind": "hub"}) for record in records])
    assert said == "- **a**: at 50% its weights take 60% of the dense ones' bytes in a file. Not timed: there is no kernel."
    assert savings.picture(data(records)) is None


def test_what_could_be_timed_at_one_sparsity_only_is_no_contradiction():
    of_a = costs.ModelSavings("a", False, [costs.Saved(0.5, 0.6, *[math.nan] * 4), costs.Saved(0.7, 0.4, 0.45, 1.9, 1.8, 2.0)])
    (said,) = paragraphs("savings", found=[of_a], obstacles={"a": "no memory"})
    assert said.endswith("it writes 1.90 (1.80 to 2.00) times as fast. Not timed at 50%: no memory. Here zeros pay from 70% on.")


def test_the_main_table_shows_packed_figures_with_dense_ones_in_brackets():
    shown = tables.trials(saved("a", [150, 160, 170])).data
    assert " 160 (100) |" in shown
    assert "0.60 GiB (1.00 GiB)" in shown
    assert "with packed weights, in brackets with the same weights dense" in shown
    assert "by transformers" not in shown
    assert "by transformers" in tables.trials([record_of("a", "dense", 0.0)]).data


def test_the_picture_tells_each_point():
    alt = savings.picture(data(saved("a", [150, 160, 170], [200, 210, 220]))).alt
    assert "a at 50%: 1.60 times as fast, 60% of the bytes in a file." in alt
    assert "a at 70%: 2.10 times as fast" in alt
