"""What the records show, as values: who is ranked where, what is told apart, what is left open."""

import math

import numpy as np
import pytest

from lottery.analysis import findings
from lottery.analysis.findings import SizeCorrelation, Survivors
from lottery.analysis.frame import frame, spread
from lottery.evaluation.bootstrap import to_bits_per_byte
from lottery.report.sentences import span
from tests.factory import BAD, GOOD, GRID, curve, record_of, sweep_of, ways


def together(sweeps):
    return [record for sweep in sweeps for record in sweep]


def data(*sweeps):
    return frame(together(sweeps))


def best(*sweeps, method="magnitude"):
    """The best ticket of some sweeps."""
    records = together(sweeps)
    return findings.best_ticket(frame(records), findings.scores(records, method))


def test_the_best_ticket_loses_most_weights_before_text_costs_more():
    found = best(BAD, GOOD)
    assert found.ranks == ["good", "bad"]
    assert found.rivals == found.left_out == []
    assert found.scores["good"]["5% more"].at == pytest.approx(0.513, abs=1e-3)
    assert found.scores["good"]["twice"].at == pytest.approx(0.71, abs=1e-3)


def test_each_sparsity_has_its_survivors():
    found = best(GOOD, BAD).survivors
    assert [(at.sparsity, at.models, at.measured) for at in found] == [
        (0.3, ["good", "bad"], 2), (0.32, ["good", "bad"], 2), (0.5, ["good"], 2), (0.52, ["good"], 2), (0.7, [], 2), (0.72, [], 2)
    ]  # fmt: skip


def test_low_bits_with_broken_text_do_not_count_as_working():
    broken = sweep_of("a", [5, 6, 7, 8], bits=[1, 1.1, 1.2, 1.2], verdicts=["coherent", "broken", "coherent", "degraded"])
    assert [at.models for at in best(broken, sweep_of("b", [5, 5.5, 90, 99])).survivors] == [["b"], ["a"], []]


@pytest.mark.parametrize(("bits", "alive"), [(1.25, True), (1.26, False)])
def test_a_variant_works_up_to_a_quarter_more_bits(bits, alive):
    assert best(sweep_of("a", [5, 6], bits=[1, bits])).survivors == [Survivors(0.5, ["a"] if alive else [], 1)]


def test_models_that_cannot_be_told_apart_are_rivals():
    twin = curve("twin", 1, 1.01, 1.02, 1.04, 1.06, 1.9, 2.1)
    assert (best(GOOD, twin, BAD).ranks, best(GOOD, twin, BAD).rivals) == (["good", "twin", "bad"], ["twin"])
    coarse = [curve(name, 1, level, 5, sparsities=(0.0, 0.5, 0.7)) for name, level in (("a", 1.2), ("b", 1.9), ("c", 1.6))]
    assert best(*coarse).rivals == ["c", "b"], "all lie between dense and 50%, whatever a straight line says"
    few = [curve(name, 1, level, 5, sparsities=(0.0, 0.5, 0.7), windows=3) for name, level in (("a", 1.2), ("b", 1.3))]
    assert best(*few).rivals == ["b"], "three windows tell nothing apart"


def test_a_model_that_never_loses_so_much_is_best():
    tough = curve("tough", 1, 1, 1, 1, 1.01, 1.02, 1.02)
    assert best(BAD, tough).ranks == ["tough", "bad"]
    assert not best(tough).scores["tough"]["5% more"].reached


def test_models_with_a_missing_sparsity_are_left_out_and_not_ranked():
    """One that was measured at 70% only has not survived 50%, and one measured at 50% only is not compared at 70%."""
    gap = [record for record in sweep_of("gap", [10, 11, 12, 13]) if record.request.sparsity != 0.5]
    found = best(gap, sweep_of("half", [10, 11]), sweep_of("whole", [10, 15, 90, 900]))
    assert (found.ranks, found.left_out) == (["whole"], ["gap", "half"])


@pytest.mark.parametrize("records", [[], sweep_of("a", [5]), [record_of("a", "magnitude", 0.5)]])
def test_without_anything_to_compare_nothing_is_found(records):
    assert best(records).ranks == []
    assert findings.size_correlations(frame(records)) == []
    assert findings.declines(frame(records), {}) == []
    assert findings.method_rankings(frame(records), records) == []


def sized(names, order):
    """Models of which the larger loses less at 50%, where ``order`` is 1, or more, where it is -1."""
    return data(*[sweep_of(name, [5, 9, 9, 9], bits=[1, 3 - order * n / 10, 3, 3], parameters=n * 1000) for n, name in enumerate(names, 1)])


@pytest.mark.parametrize("order", [1, -1])
def test_size_and_loss_are_related_only_where_chance_is_ruled_out(order):
    half, seventy, _ = findings.size_correlations(sized("abcde", order))
    assert (half.sparsity, half.rho, half.models, half.decided) == (0.5, pytest.approx(order), 5, True)
    assert half.p == pytest.approx(2 / 120)
    assert (seventy.rho, seventy.p, seventy.decided) == (0, 1, False)
    half, *_ = findings.size_correlations(sized("abcd", order))
    assert not half.decided, "of four models no order is rarer than 1 in 12"
    assert findings.size_correlations(sized("ab", order)) == []


@pytest.mark.parametrize(
    ("x", "y", "rho", "chance"), [([1, 2, 3], [1, 2, 3], 1, 2 / 6), ([1, 2, 3, 4], [4, 3, 2, 1], -1, 2 / 24), ([1, 1, 1], [1, 2, 3], 0, 1)]
)
def test_rank_correlation_against_counting_by_hand(x, y, rho, chance):
    assert findings.rank_correlation(x, y) == (pytest.approx(rho), pytest.approx(chance))


def test_rank_correlation_of_many_models_is_repeatable():
    x = list(range(12))
    assert findings.rank_correlation(x, x) == findings.rank_correlation(x, x)
    assert findings.rank_correlation(x, x)[1] < 0.01


def declines(*sweeps, common=GRID):
    """Of all sweeps, of which only the common sparsities were asked for; the others are a bisection's."""
    records = together(sweeps)
    asked = [record for record in records if record.request.sparsity in common]
    return findings.declines(frame(asked), findings.scores(records, "magnitude"))


def test_the_slowest_decline_comes_first_and_who_never_doubles_before_it():
    first, second, third = declines(GOOD, BAD, curve("early", 1, 1.01, 1.04, 1.06, 1.1, 1.2, 1.3))
    assert (first.model, first.unknown, first.gentle, first.measured_to) == ("early", True, False, 0.72)
    assert [(d.unknown, d.gentle) for d in (second, third)] == [(False, False)] * 2
    assert {d.model: (d.width.below, d.width.above) for d in (second, third)} == {
        "good": (pytest.approx(0.18), pytest.approx(0.22)),
        "bad": (pytest.approx(0.18), pytest.approx(0.22)),
    }
    grid = (0.0, 0.3, 0.32, 0.5, 0.52, 0.9, 0.92)
    (gentle,) = declines(curve("gentle", 1, 1.01, 1.04, 1.06, 1.1, 1.2, 1.3, sparsities=grid), common=grid)
    assert (gentle.gentle, gentle.unknown) == (True, False)


def test_how_closely_a_model_was_measured_does_not_make_its_decline_slow():
    """Both pass the levels in the same places; of one, the measured sparsities around them are further apart."""
    fine = curve("fine", 1, 1.04, 1.06, 1.9, 2.2, sparsities=(0.0, 0.3, 0.31, 0.6, 0.61))
    rough = curve("rough", 1, 1.04, 1.06, 1.9, 2.2, sparsities=(0.0, 0.29, 0.31, 0.59, 0.61))
    first, second = declines(fine, rough, common=(0.0, 0.61))
    assert first.width.at == pytest.approx(second.width.at, abs=0.006)
    assert first.rivals == [second.model]
    slow = curve("slow", 1, 1.04, 1.06, 1.9, 2.2, sparsities=(0.0, 0.2, 0.21, 0.6, 0.61))
    first, *_ = declines(fine, slow, common=(0.0, 0.61))
    assert (first.model, first.rivals) == ("slow", [])


def test_a_model_that_was_measured_at_few_sparsities_does_not_degrade_gracefully():
    """A real one whose run had got as far as 5% was said to."""
    records = [*GOOD, *curve("begun", 1, 1.01, sparsities=GRID[:2])]
    assert [d.model for d in findings.declines(frame(records), findings.scores(records, "magnitude"))] == ["good"]


def test_a_range_says_where_it_has_no_end():
    noise = [0.3 if i < 4 else -0.075 for i in range(20)]  # a fifth of the text suffers more than the rest
    dense, half = curve("a", 1, 1.04, sparsities=(0.0, 0.5))
    wobbly = half.result.model_copy(update={"window_nll": [1.04 * (1 + n) for n in noise]})
    found = findings.scores([dense, half.model_copy(update={"result": wobbly})], "magnitude")["a"]["5% more"]
    assert span(found) == "above 50% (95%: above 0%)"


def rankings(*sweeps):
    return findings.method_rankings(data(*sweeps), together(sweeps))


def test_methods_are_ranked_at_each_sparsity_by_their_means():
    several = (
        ways("a", magnitude=(1.5, 4.0), wanda=(1.4, 2.0), random=(9.0, 9.0)),
        ways("b", magnitude=(1.2, 3.0), wanda=(1.5, 2.5), random=(9.0, 9.0)),
    )
    half, seventy = rankings(*several)
    assert (half.sparsity, half.models, half.wins, half.interval, half.rivals) == (0.5, 2, 1, None, [])
    assert half.lost == {"magnitude": pytest.approx(0.35), "wanda": pytest.approx(0.45), "random": pytest.approx(8)}
    assert list(seventy.lost) == ["wanda", "magnitude", "random"]
    assert (seventy.wins, seventy.lost["wanda"]) == (2, pytest.approx(1.25))
    assert findings.methods(data(*several)) == ["magnitude", "wanda", "random"]
    assert set(findings.judged_by(data(*several))["method"]) == {"dense", "magnitude"}


def test_models_that_were_not_pruned_in_every_way_do_not_count_in_the_comparison_of_methods():
    half, _ = rankings(ways("a", magnitude=(1.5, 4.0), wanda=(1.4, 2.0)), ways("b", magnitude=(1.1, 1.1)))
    assert (half.models, half.lost) == (1, {"wanda": pytest.approx(0.4), "magnitude": pytest.approx(0.5)})
    assert rankings(ways("a", magnitude=(1.5, 4.0))) == []


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
    (half,) = rankings([dense, best, of("wanda", a_little_more), of("random", math.inf)])
    assert half.lost == {"sparsegpt": pytest.approx(0.3), "wanda": pytest.approx(0.31), "random": math.inf}
    assert (half.interval, half.rivals) == ((pytest.approx(0.3), pytest.approx(0.3)), [])
    (half,) = rankings([dense, best, of("ria", here_and_there - here_and_there.mean() + 0.301), of("wanda", a_little_more)])
    assert half.rivals == ["ria"]


def test_the_luckiest_of_six_equal_methods_does_not_beat_the_others(few_draws):
    """Plain intervals tell at least one of five equal ones apart from the best in 34 of 100 studies."""
    random, wrong = np.random.default_rng(6), 0
    names = ("magnitude", "wanda", "ria", "sparsegpt", "admm", "alps")
    for _ in range(100):
        base = random.normal(0, 0.05, 40)
        records = [record_of("a", "dense", 0.0, window_nll=list(1 + base), windows=40)]
        for name in names:
            nll = 1.3 + base + random.normal(0, 0.02, 40)
            records.append(record_of("a", name, 0.5, bits_per_byte=1.3, window_nll=list(nll), windows=40))
            records[-1].result.metrics["bits_per_byte"] = to_bits_per_byte(float(nll.sum()), 800)
        records[0].result.metrics["bits_per_byte"] = to_bits_per_byte(float((1 + base).sum()), 800)
        (half,) = rankings(records)
        assert half.pairs == 15
        wrong += len(half.rivals) < 5
    assert wrong <= 8, wrong


def test_a_correlation_at_one_of_many_sparsities_may_be_chance():
    one, many = SizeCorrelation(0.5, 1.0, 2 / 120, 5), SizeCorrelation(0.5, 1.0, 2 / 120, 5, levels=4)
    assert (one.decided, many.decided) == (True, False)
    assert [at.levels for at in findings.size_correlations(sized("abcde", 1))] == [3, 3, 3]


def test_whether_the_best_ticket_depends_on_the_way_of_looking():
    def found(*sweeps):
        agreement = findings.agreement(data(*sweeps), together(sweeps))
        return agreement.best, agreement.undecided

    good, bad = (1, 1.01, 1.02, 1.03, 1.06, 1.9, 2.1), (1, 1.04, 1.07, 1.9, 2.1, 4, 5)
    by = {(m, way): curve(m, *bits, method=way) for m in "ab" for way in ("magnitude", "wanda") for bits in [good if m == "a" else bad]}
    alike = found(by["a", "magnitude"], by["a", "wanda"][1:], by["b", "magnitude"], by["b", "wanda"][1:])
    assert alike == ({"magnitude": "a", "wanda": "a"}, [])
    swapped = {"a": curve("a", *bad, method="wanda")[1:], "b": curve("b", *good, method="wanda")[1:]}
    assert found(by["a", "magnitude"], swapped["a"], by["b", "magnitude"], swapped["b"]) == ({"magnitude": "a", "wanda": "b"}, [])
    twins = curve("b", *good, method="wanda")[1:]
    assert found(by["a", "magnitude"], by["a", "wanda"][1:], by["b", "magnitude"], twins) == ({"magnitude": "a"}, ["wanda"])
    control = {m: curve(m, *bits, method="random")[1:] for m, bits in (("a", bad), ("b", good))}
    assert found(by["a", "magnitude"], control["a"], by["b", "magnitude"], control["b"]) == ({"magnitude": "a"}, []), (
        "the control looks for nothing"
    )


def test_ratios_and_differences_have_paired_intervals():
    row = data(sweep_of("a", [10, 20], bits=[1, 2], windows=20)).iloc[1]
    assert row["factor"] == 2
    assert row["factor_low"] == row["factor_high"] == pytest.approx(math.exp(1 / 7))  # one nat more in each window of 7 tokens
    assert row["lost_bits"] == 1
    assert row["lost_bits_low"] == pytest.approx(1 / math.log(2) / 20)
    few = data(sweep_of("a", [10, 20], bits=[1, 2], windows=4)).iloc[1]
    assert math.isnan(few["factor_low"])
    assert few["factor"] == 2


def test_quartiles_are_those_of_seven_values_or_more_and_fewer_have_a_range():
    assert spread([3.0, 1.0, 2.0]) == [1.0, 2.0, 3.0]
    assert spread([5.0]) == [5.0, 5.0, 5.0]
    assert spread([float(i) for i in range(1, 9)]) == [2.75, 4.5, 6.25]


def test_ways_of_pruning_one_model_are_told_apart_by_where_its_bits_pass_a_level():
    """What is hard in the text is hard for all ways. Ranges that overlap by far may be told apart all the same."""
    noise = np.random.default_rng(0).normal(0, 0.7, 40)
    grid, records = [0.0, *np.arange(0.1, 0.6, 0.005)], []
    for way, cost in (("alps", 0.5), ("wanda", 0.56), ("twin", 0.501)):
        records += [
            record_of(
                "a",
                way if s else "dense",
                float(s),
                windows=40,
                window_nll=[1 + cost * s * s * (1 + n) for n in noise],
                bits_per_byte=1 + cost * s * s,
            )
            for s in grid
        ]
    scores = {way: findings.scores(records, way)["a"] for way in ("alps", "wanda", "twin")}
    five, twice = findings.latest_crossings(scores)
    assert (five.cost, five.first, five.rivals, five.others) == ("5% more", "alps", ["twin"], 2)
    assert (twice.cost, len(twice.rivals)) == ("twice", 2), "beyond what was measured by all three"
    assert scores["wanda"]["5% more"].high > scores["alps"]["5% more"].low, "their ranges overlap"
    short = [record for record in records if record.request.method in ("dense", "wanda") and record.request.sparsity < 0.25]
    scores["unfinished"] = findings.scores([r.model_copy(update={"request": r.request}) for r in short], "wanda")["a"]
    assert math.isinf(scores["unfinished"]["5% more"].at)
    five, twice = findings.latest_crossings(scores)
    assert (five.first, five.others) == ("alps", 2), "how far it could go was not measured"
    assert twice.others == 3
