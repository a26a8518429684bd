import math

import pytest

from lottery import findings, speed
from lottery.frame import frame
from lottery.records import Steadiness
from lottery.render.pdf import legible
from lottery.tables import by_method, cost, number, percent, quality, samples, side_by_side, size, tickets, trials
from tests.factory import record_of, sweep_of


def data(*sweeps):
    return frame([record for sweep in sweeps for record in sweep])


def best(*sweeps, method="magnitude"):
    """What is said of the best ticket of some sweeps."""
    records = [record for sweep in sweeps for record in sweep]
    return findings.who_has_the_best_ticket(frame(records), findings.scores(records, method))


GOOD = sweep_of("good", [10, 12, 18, 500], bits=[1, 1.02, 1.4, 5], windows=20)
BAD = sweep_of("bad", [10, 40, 90, 900], bits=[1, 2, 3, 6], windows=20)


def test_the_best_ticket_loses_most_weights_before_text_costs_more():
    assert best(GOOD, BAD) == (
        "**good** has the best ticket: its linear layers can lose 51.8% (95% interval 51.8% to 51.8%) of their weights before its text costs"
        " 5% more bits per byte, and 75.6% (95% interval 75.6% to 75.6%) before it costs twice as many."
        " Next is bad with 3.5% (95% interval 3.5% to 3.5%) and 50% (95% interval 50% to 50%)."
        " Of the models measured, these keep working: at 50% good; at 70% good; at 90% none of 2."
    )


def test_models_that_cannot_be_told_apart_are_said_to_be_so():
    noise = [0.4, -0.4, 0.2, -0.2, 0.0] * 4

    def noisy(model, level):
        dense, half = sweep_of(model, [10, 12], bits=[1, level], windows=20)
        wobbly = half.result.model_copy(update={"window_nll": [level + n for n in noise]})
        return [dense, half.model_copy(update={"result": wobbly})]

    assert "; the two cannot be told apart." in best(noisy("a", 1.3), noisy("b", 1.31))
    few = [sweep_of(name, [10, 12, 18, 500], bits=[1, level, 1.4, 5], windows=3) for name, level in (("a", 1.2), ("b", 1.3))]
    assert "; there are too few windows to tell the two apart." in best(*few)


def test_a_model_that_never_loses_so_much_is_best():
    said = best(sweep_of("tough", [10, 10, 10, 11], bits=[1, 1, 1.01, 1.02], windows=20), BAD)
    assert said.startswith("**tough** has the best ticket: even at 90% sparsity its text costs less than 5% more bits per byte.")
    said = best(sweep_of("a", [10, 11, 12, 13], bits=[1, 1.1, 1.2, 1.3], windows=20), BAD)
    assert "and more than 90% before it costs twice as many" in said


def test_low_perplexity_with_broken_text_does_not_count_as_working():
    said = best(sweep_of("a", [5, 6, 7, 8], verdicts=["coherent", "broken", "coherent", "degraded"]), sweep_of("b", [5, 9, 90, 99]))
    assert "at 50% b; at 70% a; at 90% none of 2" in said


def test_without_anything_to_compare_it_says_so():
    for records in ([], sweep_of("a", [5]), [record_of("a", "magnitude", 0.5)]):
        empty = frame(records)
        assert "nothing can be compared" in best(records)
        assert "Fewer than three models" in findings.do_bigger_models_prune_better(empty)
        assert findings.where_is_the_cliff(empty)
        assert findings.does_any_degrade_gracefully(empty)
        assert speed.what_zeros_save(empty).startswith("Zeros in dense tensors save neither")


def test_one_model_alone_is_judged_alone():
    assert best(sweep_of("a", [5, 6, 70, 80])).startswith("Only **a** can be judged so far: its linear layers can lose")


def test_size_and_loss_are_related_only_where_chance_is_ruled_out():
    sizes = {"a": 1, "b": 2, "c": 3, "d": 4, "e": 5}
    up = data(*[sweep_of(name, [5, 9, 9, 9], bits=[1, 3 - 0.1 * n, 3, 3], parameters=n * 1000) for name, n in sizes.items()])
    said = findings.do_bigger_models_prune_better(up)
    assert said.startswith(
        "Yes at 50%. Rank correlation of size with how little is lost (bits per byte): +1.00 at 50% (5 models, p = 0.02)"
    )
    three = data(*[sweep_of(name, [5, 9, 9, 9], bits=[1, 3 - 0.1 * sizes[name], 3, 3], parameters=sizes[name] * 1000) for name in "abc"])
    assert findings.do_bigger_models_prune_better(three).startswith(
        "Not decided: with so few models, orders like these come about by chance."
    )


@pytest.mark.parametrize(
    ("x", "y", "rho", "chance"), [([1, 2, 3], [1, 2, 3], 1, 2 / 6), ([1, 2, 3, 4], [4, 3, 2, 1], -1, 2 / 24), ([1, 1, 1], [1, 2, 3], 0, 1)]
)
def test_rank_correlation_against_counting_by_hand(x, y, rho, chance):
    assert findings.rank_correlation(x, y) == (pytest.approx(rho), pytest.approx(chance))


def test_rank_correlation_of_many_models_is_repeatable():
    x = list(range(12))
    assert findings.rank_correlation(x, x) == findings.rank_correlation(x, x)
    assert findings.rank_correlation(x, x)[1] < 0.01


def test_the_cliff_is_the_first_step_that_more_than_doubles():
    said = findings.where_is_the_cliff(data(sweep_of("a", [10, 15, 31, 900]), sweep_of("b", [10, 12, 14, 16])))
    assert "a between 50% and 70% (perplexity × 2.07)" in said
    assert "No cliff within the measured range: b." in said
    assert "dense" not in findings.where_is_the_cliff(data(sweep_of("a", [10, 12, 14, math.inf])))


def test_grace_is_to_have_no_such_step():
    assert findings.does_any_degrade_gracefully(data(sweep_of("a", [10, 15, 25, 40]), sweep_of("b", [1, 5, 6, 7]))).startswith(
        "Yes: a (largest step × 1.67);"
    )
    said = findings.does_any_degrade_gracefully(data(sweep_of("a", [10, 15, 45, 50]), sweep_of("b", [1, 5, 6, math.inf])))
    assert (
        said
        == "No: every model has a step in which its perplexity more than doubles. The gentlest is a, whose largest step is × 3.00, between 50% and 70%."
    )


def test_flat_speed_is_said_to_be_flat_and_other_speed_is_doubted():
    steady = data(sweep_of("a", [1, 2, 3, 4]))
    assert "at most a factor of 1.00 (a)" in speed.what_zeros_save(steady)
    assert "chance" not in speed.what_zeros_save(steady)
    unsteady = data([record_of("a", "dense", 0, speed=100), record_of("a", "magnitude", 0.5, speed=150, device="another")])
    assert "factor of 1.50 (a)" in speed.what_zeros_save(unsteady)
    assert "more than chance should give" in speed.what_zeros_save(unsteady)
    assert speed.what_does_not_compare(unsteady).startswith("**Not one measurement.** The variants of a were measured on different devices")
    assert speed.what_does_not_compare(steady) == ""


def test_the_dense_model_timed_again_tells_whether_the_machine_was_steady():
    same = Steadiness(device="a", first=[100, 101, 99], last=[100, 100, 101], steady=True)
    slower = Steadiness(device="a", first=[100, 101, 99], last=[50, 51, 49], steady=False)
    assert speed.was_it_steady({}) == ""
    assert speed.was_it_steady({"a": same}).endswith("the machine was steady.")
    assert "b 0.50 times as fast as before." in speed.was_it_steady({"a": same, "b": slower})


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


def test_ticket_scores_are_tabled_with_what_they_lie_between():
    rows = tickets(findings.scores([*GOOD, *sweep_of("tough", [1, 1, 1, 1], bits=[1, 1, 1, 1], windows=20)], "magnitude")).splitlines()
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert cells[0] == ["Model", "Bits 5% more", "Measured at (5% more)", "Bits twice", "Measured at (twice)"]
    assert cells[2][0] == "good"
    assert cells[2][2] == "50% and 70%"
    assert cells[3] == ["tough", "above 90%", "", "above 90%", ""]


def test_one_step_behind_come_quality_and_cost():
    shown = quality(data(GOOD)).splitlines()
    assert "Times dense" in shown[0]
    assert "0.500" in shown[3]  # KL
    assert "75%" in shown[3]  # top-1
    cells = [cell.strip() for cell in cost(GOOD, "m/records").splitlines()[3].strip("|").split("|")]
    assert cells[1:4] == ["99.5–100", "1,000", "100"]
    assert cells[0] == f"[magnitude\u00a050%](m/records/{GOOD[1].request.file_name})"


def test_no_table_holds_a_character_that_paper_cannot_show():
    infinite = sweep_of("over", [5.25, 1e9, math.inf, math.inf], bits=[1, 3, math.inf, math.inf], windows=20)
    scores = tickets(findings.scores([*GOOD, *BAD], "magnitude"))
    for text in (quality(data(GOOD, BAD)), quality(data(infinite)), cost(GOOD, "m"), scores, trials(infinite).data):
        assert legible(text) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0.00"), (1, "1.00"), (5.2531, "5.25"), (48.4, "48.4"), (999.6, "1,000"), (48419.12, "48,419"), (0.0123, "0.0123"), (2.5e9, "2.50×10⁹"), (math.inf, "∞"), (math.nan, "not a number")],
)  # fmt: skip
def test_numbers_are_shown_with_three_figures(value, text):
    assert number(value) == text


def test_shares_and_sizes():
    assert [percent(0.5), percent(0.905), percent(1 / 3)] == ["50%", "90.5%", "33.3%"]
    assert [size(2**30), size(5 * 2**20)] == ["1.00 GiB", "5 MiB"]


def test_the_table_has_the_five_columns():
    records = sweep_of("a", [5.25, math.inf, 7, 8])
    head, _, dense, half, *_, caption = trials(records, caption="A model.").data.splitlines()
    assert [cell.strip() for cell in head.strip("|").split("|")] == ["Sparsity", "Perplexity", "Tokens/sec", "Memory", "Coherent?"]
    assert [cell.strip() for cell in dense.strip("|").split("|")] == [
        f"[dense](records/{records[0].request.file_name})", "5.25", "100", "1.00 GiB", "yes; because"
    ]  # fmt: skip
    assert "∞" in half
    assert caption == "Table: A model. Memory: peak resident memory during generation."


def test_samples_stand_beside_their_verdict():
    shown = samples(sweep_of("a", [1, 2, 3, 4], verdicts=["coherent", "coherent", "degraded", "broken"], text="A <b>text</b>.")).data
    assert shown.count("A <b>text</b>.") == 8
    assert "70%, greedy: degraded" in shown
    beside = side_by_side(GOOD)
    assert beside.count("Once more.") == 4, "one beginning, drawn texts only"
    assert "How good and its tickets continue: Once upon a time …" in beside


def ways(model, **of_methods):
    """The dense model at one bit per byte and perplexity 10, and for each way of pruning its bits at 50% and 70%."""
    found = [record_of(model, "dense", 0.0, 10.0)]
    for method, bits in of_methods.items():
        found += [record_of(model, method, level, 10 * b, bits_per_byte=b) for level, b in zip((0.5, 0.7), bits, strict=True)]
    return found


def test_which_method_keeps_most_is_said_for_each_sparsity_with_means_and_wins():
    several = data(
        ways("a", magnitude=(1.5, 4.0), wanda=(1.4, 2.0), random=(9.0, 9.0)),
        ways("b", magnitude=(1.2, 3.0), wanda=(1.5, 2.5), random=(9.0, 9.0)),
    )
    assert findings.which_method_keeps_most(several) == (
        "At 50% magnitude loses least, 0.350 bits per byte in the mean of 2 models (least of all in 1), random most, 8.00;"
        " at 70% wanda loses least, 1.25 bits per byte in the mean of 2 models (least of all in 2), random most, 8.00."
    )
    assert findings.methods(several) == ["magnitude", "wanda", "random"]
    assert set(findings.judged_by(several)["method"]) == {"dense", "magnitude"}


def test_models_that_were_not_pruned_in_every_way_do_not_count_in_the_comparison_of_methods():
    partly = data(ways("a", magnitude=(1.5, 4.0), wanda=(1.4, 2.0)), ways("b", magnitude=(1.1, 1.1)))
    assert "in the mean of 1 model (least of all in 1)" in findings.which_method_keeps_most(partly)
    assert findings.which_method_keeps_most(data(ways("a", magnitude=(1.5, 4.0)))) == (
        "No sparsity has two ways of pruning measured on the same models, so they cannot be compared."
    )


def test_whether_the_best_ticket_depends_on_the_way_of_looking():
    def said(*sweeps):
        return findings.do_methods_agree(data(*sweeps), [record for sweep in sweeps for record in sweep])

    assert said(ways("a", magnitude=(1.1, 1.2), wanda=(1.1, 1.2)), ways("b", magnitude=(1.5, 4.0), wanda=(1.2, 2.0))) == (
        "All 2 ways of pruning find the best ticket in the same model, a."
    )
    assert said(ways("a", magnitude=(1.1, 1.2), wanda=(1.5, 4.0)), ways("b", magnitude=(1.5, 4.0), wanda=(1.2, 1.3))) == (
        "The best ticket depends on how it is looked for: a by magnitude; b by wanda."
    )
    assert said(GOOD, BAD) == ""


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
