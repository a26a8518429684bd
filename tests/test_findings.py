import math

import numpy as np
import pytest

from lottery.analysis import findings
from lottery.analysis.frame import frame, spread
from lottery.common.format import number, percent, size
from lottery.experiments.threshold import span
from lottery.report.figures import methods_compared
from lottery.report.render.pdf import legible
from lottery.report.sections import speed
from lottery.report.tables import about, all_models, by_method, cost, quality, samples, side_by_side, summary, trials
from tests.factory import record_of, sweep_of


def data(*sweeps):
    return frame([record for sweep in sweeps for record in sweep])


def best(*sweeps, method="magnitude"):
    """What is said of the best ticket of some sweeps."""
    records = [record for sweep in sweeps for record in sweep]
    return findings.who_has_the_best_ticket(frame(records), findings.scores(records, method))


GRID = (0.0, 0.3, 0.32, 0.5, 0.52, 0.7, 0.72)


def curve(model, *bits, noise=None, sparsities=GRID, windows=20, method="magnitude", **more):
    """The dense model and its variants at the sparsities of a grid, with the given bits per byte; ``noise`` moves the windows."""
    wobble = noise or [0.0] * windows
    return [
        record_of(
            model, method if s else "dense", s, 10 * b, bits_per_byte=b, windows=windows, window_nll=[b * (1 + n) for n in wobble], **more
        )
        for s, b in zip(sparsities, bits, strict=True)
    ]


GOOD = curve("good", 1, 1.01, 1.02, 1.03, 1.06, 1.9, 2.1)
BAD = curve("bad", 1, 1.04, 1.07, 1.9, 2.1, 4, 5)
COARSE = curve("coarse", 1, 1.5, 5, sparsities=(0.0, 0.5, 0.7))


def test_the_best_ticket_loses_most_weights_before_text_costs_more():
    assert best(GOOD, BAD) == (
        "**good** has the best ticket: its text costs 5% more bits per byte at 51.3% (95%: 50% to 52%) sparsity, twice as many at 71% (95%:"
        " 70% to 72%). Next is bad: its text costs 5% more bits per byte at 30.7% (95%: 30% to 32%) sparsity, twice as many at 51% (95%: 50%"
        " to 52%). Of the models measured, these keep working: at 30% and 32% all 2; at 50% and 52% good; at 70% and 72% none"
        " of 2."
    )


def test_what_is_said_of_many_sparsities_is_said_once():
    steps = tuple(n / 10 for n in range(10))
    sweeps = [curve(model, 1, *[1.5] * 9, sparsities=steps) for model in "ab"]
    assert "keep working: from 10% to 90% none of 2." in best(*sweeps)


def test_a_model_that_was_measured_at_few_sparsities_does_not_degrade_gracefully():
    """A real one whose run had got as far as 5% was said to."""
    sweeps = [*GOOD, *curve("begun", 1, 1.01, sparsities=GRID[:2])]
    assert findings.does_any_degrade_gracefully(frame(sweeps), findings.scores(sweeps, "magnitude")).startswith("No: every model")


def test_a_score_that_was_not_measured_closely_is_stated_as_what_it_lies_between():
    """The first real model: a straight line from dense to 50% put the score at 3.4%, where 20 to 30% were true."""
    said = best(COARSE)
    assert said.startswith(
        "**coarse** is the only model measured: its text costs 5% more bits per byte between dense and 50% sparsity, twice as many between 50% and 70%."
    )
    assert "3.4%" not in best(curve("smollm2", 1, 1.9207, sparsities=(0.0, 0.5)))


def test_models_that_cannot_be_told_apart_are_said_to_be_so():
    said = best(GOOD, curve("twin", 1, 1.01, 1.02, 1.04, 1.06, 1.9, 2.1))
    assert said.startswith(
        "**No model has clearly the best ticket**, the two cannot be told apart. Text costs 5% more bits per byte at these"
    )
    assert "good at 51.3% (95%: 50% to 52%); twin at 51.0% (95%: 50% to 52%)." in said.replace("51%", "51.0%")
    sparsities = (0.0, 0.5, 0.7)
    coarse = [curve(name, 1, level, 5, sparsities=sparsities) for name, level in (("a", 1.2), ("b", 1.9), ("c", 1.6))]
    assert "the first 3 cannot be told apart" in best(*coarse), "all lie between dense and 50%, whatever a straight line says"
    few = [curve(name, 1, level, 5, sparsities=sparsities, windows=3) for name, level in (("a", 1.2), ("b", 1.3))]
    assert "there are too few windows to tell models apart" in best(*few)


def test_a_model_that_never_loses_so_much_is_best():
    said = best(curve("tough", 1, 1, 1, 1, 1.01, 1.02, 1.02), BAD)
    assert said.startswith(
        "**tough** has the best ticket: even at 72% sparsity its text costs less than 5% more bits per byte. Next is bad"
    )
    said = best(curve("a", 1, 1.01, 1.04, 1.06, 1.1, 1.2, 1.3))
    assert "twice as many above 72%." in said


def test_low_bits_with_broken_text_do_not_count_as_working():
    said = best(
        sweep_of("a", [5, 6, 7, 8], bits=[1, 1.1, 1.2, 1.2], verdicts=["coherent", "broken", "coherent", "degraded"]),
        sweep_of("b", [5, 5.5, 90, 99]),
    )
    assert "at 50% b; at 70% a; at 90% none of 2" in said
    assert best(sweep_of("a", [5, 6], bits=[1, 1.26])).endswith(" It does not keep working at 50%.")
    assert best(sweep_of("a", [5, 6, 7], bits=[1, 1.2, 1.26])).endswith(" It keeps working at 50%, not at 70%.")
    assert best(sweep_of("a", [5, 6, 7], bits=[1, 1.1, 1.2])).endswith(" It keeps working at 50% and 70%.")
    assert best(sweep_of("a", [5, 6, 7, 8], bits=[1, 1.3, 1.4, 1.5])).endswith(" It does not keep working at 50%, 70% or 90%.")


def test_without_anything_to_compare_it_says_so():
    for records in ([], sweep_of("a", [5]), [record_of("a", "magnitude", 0.5)]):
        empty = frame(records)
        assert "nothing can be compared" in best(records)
        assert findings.do_bigger_models_prune_better(empty) in (
            "Cannot be decided: fewer than three models can be compared at any sparsity.",
            "One model cannot say.",
        )
        assert findings.where_is_the_cliff(empty, {}).startswith("No model has")
        assert findings.does_any_degrade_gracefully(empty, {}).startswith("No model has")
        assert speed.what_zeros_save(empty).startswith("Zeros in dense tensors save neither")


def test_one_model_alone_is_judged_alone():
    assert best(sweep_of("a", [5, 6, 70, 80])).startswith("**a** is the only model measured: its text costs 5% more bits per byte between")


def test_size_and_loss_are_related_only_where_chance_is_ruled_out():
    sizes = {"a": 1, "b": 2, "c": 3, "d": 4, "e": 5}
    up = data(*[sweep_of(name, [5, 9, 9, 9], bits=[1, 3 - 0.1 * n, 3, 3], parameters=n * 1000) for name, n in sizes.items()])
    said = findings.do_bigger_models_prune_better(up)
    assert said.startswith(
        "Yes at 50%. Rank correlation of size with how little is lost (bits per byte): +1.00 at 50% (5 models, p = 0.02)"
    )
    three = data(*[sweep_of(name, [5, 9, 9, 9], bits=[1, 3 - 0.1 * sizes[name], 3, 3], parameters=sizes[name] * 1000) for name in "abc"])
    said = findings.do_bigger_models_prune_better(three)
    assert said.startswith("Cannot be decided with fewer than five models. Rank correlation")
    assert "p =" not in said, "of three models no order is rarer than 1 in 3"


@pytest.mark.parametrize(
    ("x", "y", "rho", "chance"), [([1, 2, 3], [1, 2, 3], 1, 2 / 6), ([1, 2, 3, 4], [4, 3, 2, 1], -1, 2 / 24), ([1, 1, 1], [1, 2, 3], 0, 1)]
)
def test_rank_correlation_against_counting_by_hand(x, y, rho, chance):
    assert findings.rank_correlation(x, y) == (pytest.approx(rho), pytest.approx(chance))


def test_rank_correlation_of_many_models_is_repeatable():
    x = list(range(12))
    assert findings.rank_correlation(x, x) == findings.rank_correlation(x, x)
    assert findings.rank_correlation(x, x)[1] < 0.01


def test_the_cliff_lies_between_both_levels_of_the_ticket_score():
    scores = findings.scores([*GOOD, *COARSE], "magnitude")
    said = findings.where_is_the_cliff(data(GOOD, COARSE), scores)
    assert "good from 51.3% to 71%; coarse from between dense and 50% to between 50% and 70%." in said


def test_grace_is_never_to_double():
    gentle = curve("gentle", 1, 1.01, 1.04, 1.06, 1.1, 1.2, 1.3)
    records = [*GOOD, *BAD, *gentle]
    scores = findings.scores(records, "magnitude")
    assert findings.does_any_degrade_gracefully(frame(records), scores) == (
        "Yes: gentle (up to 72%); bits per byte never double within what was measured."
    )
    both = {model: scores[model] for model in ("good", "bad")}
    assert findings.does_any_degrade_gracefully(data(GOOD, BAD), both) == (
        "No: every model doubles its bits per byte within what was measured. From 5% more to twice as many bad takes longest, 18 to 22 points of"
        " sparsity."
    )


def timed(model, *ratios, dense=100.0, **more):
    """A model's variants, each so many times as fast as the dense model beside it."""
    pruned = [record_of(model, "magnitude", (i + 1) / 20, speed=dense * r, dense_speed=dense, **more) for i, r in enumerate(ratios)]
    return [record_of(model, "dense", 0.0), *pruned]


def test_speeds_are_compared_with_the_dense_model_beside_them():
    """However the machine's pace changes between trials."""
    slower = record_of("a", "magnitude", 0.9, speed=51.0, dense_speed=50.0)
    found = data([*timed("a", 0.97), slower])
    assert math.isnan(found["speed_ratio"][0])
    assert list(found["speed_ratio"][1:]) == pytest.approx([0.97, 1.02])
    # Three repeats, 1% around the median, of both: the slowest over the fastest, the fastest over the slowest.
    assert (found["speed_ratio_low"][1], found["speed_ratio_high"][1]) == pytest.approx((0.97 * 0.99 / 1.01, 0.97 * 1.01 / 0.99))
    said = speed.what_zeros_save(found)
    assert "as multiples of those of the dense model timed right after each: a 0.970 to 1.02. No variant of a is shown to" in said
    assert "memory differs by at most a factor of 1.00 (a)." in said


def test_ratios_on_one_side_are_no_chance_once_there_are_many():
    found = data([*timed("a", 0.9, 0.95), *timed("b", *[1.1] * 6), *timed("c", 1.2), *timed("d", 0.9, 1.1)])
    said = speed.what_zeros_save(found)
    assert "a 0.900 to 0.950; b 1.10; c 1.20; d 0.900 to 1.10." in said
    assert "All 6 ratios of b lie above 1, which chance alone does in 3.1% of cases." in said
    assert "No variant of a, c, d is shown to be faster or slower." in said


def test_what_was_not_timed_is_not_told():
    records = timed("a", 1.0)
    for record in records:
        record.result.speed = record.result.dense_speed = None
    assert "Tokens per second" not in speed.what_zeros_save(data(records))


def test_several_devices_do_not_compare():
    mixed = data([record_of("a", "dense", 0), record_of("a", "magnitude", 0.5, device="another")])
    assert speed.what_does_not_compare(mixed).startswith("**Not one measurement.** The variants of a were measured on different devices")
    assert speed.what_does_not_compare(data(timed("a", 1.0))) == ""


def test_the_cost_table_shows_speed_in_times_of_the_dense_model():
    said = cost(timed("a", 0.97), "a/records")
    head, _, dense, half = (line.split("|") for line in said.splitlines() if line.startswith("|"))
    at = [cell.strip() for cell in head].index("Times dense")
    assert [dense[at].strip(), half[at].strip()] == ["", "0.970"]


def test_the_share_of_the_bandwidth_is_that_of_the_bytes_read():
    # 100 tokens a second, 4,000 bytes each, of 10⁹ bytes a second.
    assert "dense: a 0%." in speed.what_limits_decoding(data([record_of("a", "dense", 0)]))
    assert "dense: a 40%." in speed.what_limits_decoding(data([record_of("a", "dense", 0, parameters=10**6)]))


def test_ratios_and_differences_have_paired_intervals():
    row = data(sweep_of("a", [10, 20], bits=[1, 2], windows=20)).iloc[1]
    assert row["factor"] == 2
    assert row["factor_low"] == row["factor_high"] == pytest.approx(math.exp(1 / 7))  # one nat more in each window of 7 tokens
    assert row["lost_bits"] == 1
    assert row["lost_bits_low"] == pytest.approx(1 / math.log(2) / 20)
    few = data(sweep_of("a", [10, 20], bits=[1, 2], windows=4)).iloc[1]
    assert math.isnan(few["factor_low"])
    assert few["factor"] == 2


def test_models_with_a_missing_sparsity_are_named_and_not_ranked():
    """One that was measured at 70% only has not survived 50%, and one measured at 50% only is not compared at 70%."""
    gap = [record for record in sweep_of("gap", [10, 11, 12, 13]) if record.request.sparsity != 0.5]
    said = best(gap, sweep_of("half", [10, 11]), sweep_of("whole", [10, 15, 90, 900]))
    assert said.startswith("Only **whole** can be judged so far")
    assert "Not compared, because a measurement is missing or the dense model's is not finite: gap, half." in said


def summarized(*records) -> str:
    return summary(data(*records), findings.scores([r for model in records for r in model], "magnitude"), findings.keeps_working)


def test_the_summary_has_a_row_a_model_and_its_scores_as_far_as_they_are_known():
    tough = curve("tough", 1, 1, 1, 1, 1, 1, 1)
    rows = summarized(GOOD, COARSE, tough).splitlines()
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert cells[0] == ["Model", "Bits 5% more at", "Bits twice at", "Keeps working at", "Dense perplexity", "Parameters"]
    assert cells[2:5] == [
        ["tough", "above 72%", "above 72%", "all up to 72%", "10.0", "1.00\u00a0K"],
        ["good", "51.3% (95%: 50% to 52%)", "71% (95%: 70% to 72%)", "all up to 52%", "10.0", "1.00\u00a0K"],
        ["coarse", "between dense and 50%", "between 50% and 70%", "none", "10.0", "1.00\u00a0K"],
    ]
    few = summarized(curve("a", 1, 1.01, 1.02, 1.03, 1.06, 1.9, 2.1, windows=19))
    assert "51.3% (measured at 50% and 52%)" in few
    assert "19 windows are too few for 95% ranges" in few
    broken = curve("b", 1, 1.01, 2.02, 1.03, 1.06, 1.9, 2.1)
    assert summarized(broken).splitlines()[2].split("|")[4].strip() == "30%, 50%, 52%", "not all up to 50%: one below it fails"


def test_a_range_says_where_it_has_no_end():
    noise = [0.3 if i < 4 else -0.075 for i in range(20)]  # a fifth of the text suffers more than the rest
    dense, half = curve("a", 1, 1.04, sparsities=(0.0, 0.5))
    wobbly = half.result.model_copy(update={"window_nll": [1.04 * (1 + n) for n in noise]})
    found = findings.scores([dense, half.model_copy(update={"result": wobbly})], "magnitude")["a"]["5% more"]
    assert span(found) == "above 50% (95%: above 0%)"


def test_one_step_behind_come_quality_and_cost():
    shown = quality(data(GOOD)).splitlines()
    assert "Times dense" in shown[0]
    assert "0.500" in shown[3]  # KL
    assert "75%" in shown[3]  # top-1
    cells = [cell.strip() for cell in cost(GOOD, "m/records").splitlines()[3].strip("|").split("|")]
    assert cells[1:5] == ["99.0–101", "1.00", "1,000", "100"]
    assert cells[0] == f"[magnitude\u00a030%](m/records/{GOOD[1].request.file_name})"


def test_what_was_scored_only_has_no_row_among_texts_and_costs_and_is_named():
    scored = GOOD[2].model_copy(update={"result": GOOD[2].result.model_copy(update={"speed": None, "texts": None})})
    records = [*GOOD[:2], scored]
    assert "32%" not in cost(records, "m")
    assert trials(records).data.endswith("Scored only, to find where the bits rise: 32%.")
    assert "32%" in quality(frame(records))
    assert "32%" not in samples(records).data + side_by_side(records)
    assert math.isnan(frame(records).iloc[2]["tokens_per_second"])


def test_no_table_holds_a_character_that_paper_cannot_show():
    infinite = sweep_of("over", [5.25, 1e9, math.inf, math.inf], bits=[1, 3, math.inf, math.inf], windows=20)
    scores = summarized(GOOD, BAD)
    for text in (quality(data(GOOD, BAD)), quality(data(infinite)), cost(GOOD, "m"), scores, trials(infinite).data):
        assert legible(text) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0.00"), (1, "1.00"), (5.2531, "5.25"), (48.4, "48.4"), (999.6, "1,000"), (48419.12, "48,419"), (99_999, "99,999"), (123_456, "1.23×10⁵"), (0.0123, "0.0123"), (2.5e9, "2.50×10⁹"), (math.inf, "∞"), (math.nan, "not a number")],
)  # fmt: skip
def test_numbers_are_shown_with_three_figures(value, text):
    assert number(value) == text


def test_shares_and_sizes():
    assert [percent(0.5), percent(0.905), percent(1 / 3)] == ["50%", "90.5%", "33.3%"]
    assert [size(2**30), size(5 * 2**20)] == ["1.00 GiB", "5 MiB"]


def test_the_table_has_the_five_columns():
    records = sweep_of("a", [5.25, math.inf, 7, 8])
    head, _, dense, half, *_, caption = trials(records).data.splitlines()
    assert [cell.strip() for cell in head.strip("|").split("|")] == ["Sparsity", "Perplexity", "Tokens/sec", "Memory", "Coherent?"]
    assert [cell.strip() for cell in dense.strip("|").split("|")] == [
        f"[dense](records/{records[0].request.file_name})", "5.25", "100", "1.00 GiB", "yes; 1.00 bits per new byte"
    ]  # fmt: skip
    assert "∞" in half
    assert caption == (
        "Table: Memory: peak main memory during generation. Coherent: by the bits that the dense model needs for each new byte;"
        " 1.00 for its own texts, 8.00 for shuffled words."
    )


def test_all_models_share_one_table_and_each_is_named_once():
    rows = all_models({"a": sweep_of("a", [5.25, 6, 7, 8]), "b": sweep_of("b", [5, 6, 7, 8])}).splitlines()
    models = [row.strip("|").split("|")[0].strip() for row in rows[2:10]]
    assert models == ["**a**", "", "", "", "**b**", "", "", ""]
    assert "](b/records/" in rows[6]
    assert [row.strip("|").split("|")[1].strip()[:5] for row in rows[2:6]] == ["[dens", "[50%]", "[70%]", "[90%]"]
    assert rows[-1].startswith("Table: All models, pruned by magnitude. Memory: peak main memory during generation. Coherent: by the bits")
    several = all_models({"a": [*sweep_of("a", [1, 2, 3, 4]), record_of("a", "wanda", 0.5)]})
    assert "[wanda\u00a050%]" in several
    assert "pruned by" not in several
    assert about(sweep_of("a", [1, 2, 3, 4])) == "Bits per new byte: 1.00 of its own texts, 8.00 of shuffled words."


def test_samples_stand_beside_their_verdict():
    shown = samples(sweep_of("a", [1, 2, 3, 4], verdicts=["coherent", "coherent", "degraded", "broken"], text="A <b>text</b>.")).data
    assert shown.count("A <b>text</b>.") == 8
    assert "70%, greedy: degraded" in shown
    beside = side_by_side(GOOD)
    assert beside.count("Once more.") == len(GOOD), "one beginning, drawn texts only"
    assert "How good and its tickets continue: Once upon a time …" in beside


def ways(model, **of_methods):
    """The dense model at one bit per byte and perplexity 10, and for each way of pruning its bits at 50% and 70%."""
    found = [record_of(model, "dense", 0.0, 10.0)]
    for method, bits in of_methods.items():
        found += [record_of(model, method, level, 10 * b, bits_per_byte=b) for level, b in zip((0.5, 0.7), bits, strict=True)]
    return found


def keeps_most(*sweeps) -> str:
    return findings.which_method_keeps_most(data(*sweeps), [record for sweep in sweeps for record in sweep])


FEW = " There are too few windows to tell ways of pruning apart."


def test_which_method_keeps_most_is_said_for_each_sparsity_with_means_and_wins():
    several = (
        ways("a", magnitude=(1.5, 4.0), wanda=(1.4, 2.0), random=(9.0, 9.0)),
        ways("b", magnitude=(1.2, 3.0), wanda=(1.5, 2.5), random=(9.0, 9.0)),
    )
    assert keeps_most(*several) == (
        "At 50% magnitude loses least, 0.350 bits per byte in the mean of 2 models (least of all in 1), random most, 8.00."
        " At 70% wanda loses least, 1.25 bits per byte in the mean of 2 models (least of all in 2), random most, 8.00." + FEW
    )
    assert findings.methods(data(*several)) == ["magnitude", "wanda", "random"]
    assert set(findings.judged_by(data(*several))["method"]) == {"dense", "magnitude"}


def test_models_that_were_not_pruned_in_every_way_do_not_count_in_the_comparison_of_methods():
    said = keeps_most(ways("a", magnitude=(1.5, 4.0), wanda=(1.4, 2.0)), ways("b", magnitude=(1.1, 1.1)))
    assert said.startswith("At 50% wanda loses least, 0.400 bits per byte, magnitude most, 0.500. At 70%"), "one model has no mean"
    assert keeps_most(ways("a", magnitude=(1.5, 4.0))) == (
        "No sparsity has two ways of pruning measured on the same models, so they cannot be compared."
    )


def test_ways_of_pruning_are_told_apart_window_by_window():
    """What all windows lose alike is told apart however much they differ; what one loses here and the other there is not."""
    random = np.random.default_rng(0)
    texts, sizes = random.normal(1, 0.2, 40), [20] * 40

    def of(method, more):
        nll = (20 * math.log(2) * (texts + more)).tolist()
        return record_of(
            "a", method, 0.5 if method != "dense" else 0, bits_per_byte=sum(nll) / sum(sizes) / math.log(2), window_nll=nll, windows=40
        )

    a_little_more, here_and_there = 0.31, 0.3 + random.normal(0, 0.2, 40)
    dense, best = of("dense", 0), of("sparsegpt", 0.3)
    said = keeps_most([dense, best, of("wanda", a_little_more), of("random", math.inf)])
    assert said == "At 50% sparsegpt loses least, 0.300 (0.300 to 0.300) bits per byte, random most, ∞."
    said = keeps_most([dense, best, of("ria", here_and_there - here_and_there.mean() + 0.301), of("wanda", a_little_more)])
    assert said.endswith("bits per byte, wanda most, 0.310; ria cannot be told apart from it.")


def test_whether_the_best_ticket_depends_on_the_way_of_looking():
    def said(*sweeps):
        return findings.do_methods_agree(data(*sweeps), [record for sweep in sweeps for record in sweep])

    good, bad = (1, 1.01, 1.02, 1.03, 1.06, 1.9, 2.1), (1, 1.04, 1.07, 1.9, 2.1, 4, 5)
    by = {(m, way): curve(m, *bits, method=way) for m in "ab" for way in ("magnitude", "wanda") for bits in [good if m == "a" else bad]}
    assert said(by["a", "magnitude"], by["a", "wanda"][1:], by["b", "magnitude"], by["b", "wanda"][1:]) == (
        "2 ways of pruning find the best ticket in the same model, a."
    )
    swapped = {"a": curve("a", *bad, method="wanda")[1:], "b": curve("b", *good, method="wanda")[1:]}
    assert said(by["a", "magnitude"], swapped["a"], by["b", "magnitude"], swapped["b"]) == (
        "The best ticket depends on how it is looked for: a by magnitude; b by wanda."
    )
    alike = curve("b", *good, method="wanda")[1:]
    assert said(by["a", "magnitude"], by["a", "wanda"][1:], by["b", "magnitude"], alike) == (
        "Whether the best ticket depends on how it is looked for is not decided. By wanda the best two cannot be told apart."
    )
    assert said(GOOD, BAD) == ""


def test_every_sparsity_that_there_is_room_for_is_written_at_the_axis():
    steps = (("dense", 0.0), *((way, s) for way in ("magnitude", "wanda") for s in (0.5, 0.6, 0.7, 0.72)))
    figure = methods_compared(frame([record_of("a", way, s, bits_per_byte=1 + s) for way, s in steps])).figure
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["50%", "60%", "72%"]
    figure = methods_compared(frame([record_of("a", way, s, bits_per_byte=1 + s) for way, s in steps if s < 0.71])).figure
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["50%", "60%", "70%"]


def test_the_table_of_methods_marks_the_lowest_of_each_model():
    records = [*ways("a", magnitude=(1.5, 4.0), wanda=(1.4, 5.0)), record_of("a", "wanda", 0.5, 20.0, pattern="2:4")]
    records += ways("b", magnitude=(1.5, 4.0), wanda=(1.6, 5.0))
    lines = by_method(frame(records), 0.5).split("\n\n")[0].splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == ["Method", "a", "b", "Pruning"]
    assert cells[2:] == [
        ["dense", "10.0", "10.0", ""],
        ["magnitude", "15.0", "**15.0**", "0.10 s"],
        ["wanda", "**14.0**", "16.0", "0.10 s"],
        ["wanda\u00a02:4", "20.0", "", "0.10 s"],
    ]


def test_quartiles_are_those_of_seven_values_or_more_and_fewer_have_a_range():
    assert spread([3.0, 1.0, 2.0]) == [1.0, 2.0, 3.0]
    assert spread([5.0]) == [5.0, 5.0, 5.0]
    assert spread([float(i) for i in range(1, 9)]) == [2.75, 4.5, 6.25]
