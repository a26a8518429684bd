"""The rule for a winning ticket: its whole table of cases, the intervals behind a case, and the errors of verdicts on made procedures."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest

from lottery.analysis.imp.results import ImpResults
from lottery.analysis.imp.verdict import Compared, MeanCI, Verdict, WhyNot, compared, holm, mean, of_level, of_model, why_not
from tests.factory import procedure_of

CASES = ["better", "equivalent", "worse", "undecided", "diverged", "missing"]
NOISE = [0.0, 0.1, -0.1]


def test_the_whole_table():
    """Written out anew, by counting: every case of the ticket beside the dense model, with every three cases of the controls."""
    seen = dict.fromkeys(["ticket", "no ticket", "not decided"], 0)
    for beside, *controls in itertools.product(CASES, repeat=4):
        found = of_level(beside, controls)
        seen[found] += 1
        good, beaten = (sum(case in kind for case in controls) for kind in (("better", "equivalent"), ("worse", "diverged")))
        if beside in ("worse", "diverged"):
            assert found == "no ticket"
        elif good:
            assert found == "no ticket", "a control that is as good is enough"
        elif beaten == 3 and beside in ("better", "equivalent"):
            assert found == "ticket"
        else:
            assert found == "not decided"
    # 2 × 216 beside worse; else 4 × (216 − 4³) with a control as good; tickets are 2 × 2³.
    assert seen == {"ticket": 16, "no ticket": 2 * 216 + 4 * (216 - 64), "not decided": 4 * 64 - 16}


def losses(*values) -> pd.Series:
    return pd.Series(values, index=range(len(values)), dtype=float)


@pytest.mark.parametrize(
    ("one", "case"),
    [
        ((1.9, 1.91, 1.89), "better"),
        ((2.0, 2.001, 1.999), "equivalent"),
        ((1.98, 1.99, 1.985), "equivalent"),  # not worse by more than the margin, whether better is not known
        ((2.1, 2.11, 2.09), "worse"),
        ((2.0, 2.1, 1.9), "undecided"),
        ((2.02, 2.04, 2.0), "undecided"),
        ((math.inf,) * 3, "diverged"),
        ((math.inf, 2.1, 2.11), "worse"),
        ((math.inf, 2.0, 2.001), "undecided"),  # never as good as one that did not diverge
        ((math.inf, math.inf, 2.3), "undecided"),
        ((2.0, math.nan, 2.0), "missing"),
    ],
)
def test_each_case_beside_a_loss_of_two_with_a_margin_of_a_fiftieth(one, case):
    assert compared(losses(*one), losses(2.0, 2.0, 2.0), 0.02, 0.05).case == case


def test_what_has_nothing_to_be_compared_with():
    assert compared(losses(2.0, 2.0), losses(2.0, math.inf), 0.02, 0.05).case == "undecided"
    assert compared(losses(), losses(), 0.02, 0.05).case == "missing"
    assert compared(losses(2.0), losses(2.0), 0.02, 0.05).case == "undecided", "one seed has no interval"


def test_a_mean_has_students_interval_and_keeps_its_sign():
    found = mean([1.0, 2.0, 3.0])
    assert found.value == 2.0
    assert found.high - found.value == pytest.approx(4.3027 / math.sqrt(3), rel=1e-4)
    assert mean([1.0, 2.0, 3.0], 0.025).high - 2 == pytest.approx(6.2053 / math.sqrt(3), rel=1e-4)
    assert (str(mean([2.0])), mean([1.0, 1.0])) == ("2.00", MeanCI(1.0, 1.0, 1.0))
    assert (mean([1.0, math.inf]).value, mean([1.0, -math.inf]).value) == (math.inf, -math.inf)
    assert math.isnan(mean([math.inf, -math.inf]).value)
    assert math.isnan(mean([]).value)


def verdict(losses: dict, noise=NOISE) -> Verdict:
    return ImpResults(procedure_of("m", losses, noise)).verdict["m"]


ONE = {"dense": [2.0], "pruned": [2.5], "ticket": [2.0], "one-shot": [2.0]}


def test_a_control_that_is_as_good_within_the_margin_is_not_beaten():
    """The contradiction of before: all controls within 1% of the ticket, and it was a ticket that no control did as well as."""
    found = verdict({**ONE, "new weights": [2.006], "random mask": [2.006], "shuffled mask": [2.006]})
    (why,) = found.why_not.values()
    assert (found.verdict, list(found.why_not)) == ("no ticket", [pytest.approx(0.4)])
    assert (why.arm, why.compared.case) == ("new weights", "equivalent")
    assert 0 < why.compared.difference.value < 0.01


def test_controls_that_diverged_are_beaten():
    records = procedure_of("m", {**ONE, "new weights": [2.3], "random mask": [2.3], "shuffled mask": [2.3]}, NOISE)
    for record in records:
        if record.request.arm == "random mask":
            record.result.loss, record.result.problem = math.inf, "diverged: x"
    assert ImpResults(records).verdict["m"].verdict == "ticket"


def test_a_seed_that_pruning_left_with_nothing_is_not_forgotten():
    records = procedure_of("m", {**ONE, "new weights": [2.3], "random mask": [2.3], "shuffled mask": [2.3]}, NOISE)
    for record in records:
        if record.request.arm == "ticket" and record.request.seed == 1:
            record.result.loss, record.result.curve, record.result.problem = math.inf, [], "leaves nothing of q"
    assert ImpResults(records).verdict["m"].verdict == "not decided"


def test_a_ticket_is_judged_beside_the_better_dense_model():
    """Trained straight through the dense model is worse than every ticket; restarted as they are it is better than all."""
    made = {**ONE, "dense": [2.4], "new weights": [2.3], "random mask": [2.3], "shuffled mask": [2.3]}
    assert verdict(made).verdict == "ticket"
    outcome = ImpResults(procedure_of("m", {**made, "dense rewound": [1.8]}, NOISE))
    assert outcome.baseline("m") == "dense rewound"
    found = outcome.verdict["m"]
    (why,) = found.why_not.values()
    assert (found.verdict, why.arm, why.compared.case) == ("no ticket", "", "worse")
    assert why.compared.difference.value == pytest.approx(0.2, abs=0.005)
    half = [r for r in procedure_of("m", made, NOISE) if (r.request.arm, r.request.seed) != ("dense rewound", 1)]
    found = ImpResults(half).verdict["m"]
    (why,) = found.why_not.values()
    assert (found.verdict, why.arm, why.compared.case) == ("not decided", "", "missing"), "which dense model is better is not known"


def test_a_dense_model_that_diverged_in_a_seed_is_the_reason_that_is_told():
    """Straight through it diverged once, and could not be rewound then: neither dense model has a mean."""
    made = {**ONE, "dense rewound": [2.0], "new weights": [2.3], "random mask": [2.3], "shuffled mask": [2.3]}
    records = procedure_of("m", made, NOISE)
    for record in records:
        if record.request.seed == 1 and record.request.arm in ("dense", "dense rewound"):
            record.result.loss, record.result.problem = math.inf, "diverged: x"
            if record.request.arm == "dense rewound":
                record.result.curve = []
    assert ImpResults(records).verdict["m"] == Verdict("not decided", obstacle="no dense loss")


def test_one_seed_decides_nothing_even_where_its_ticket_diverged():
    records = procedure_of("m", {**ONE, "new weights": [2.3], "random mask": [2.3], "shuffled mask": [2.3]}, [0.0])
    for record in records:
        if record.request.arm == "ticket":
            record.result.loss, record.result.problem = math.inf, "diverged: x"
    assert ImpResults(records).verdict["m"] == Verdict("not decided", obstacle="one seed")


def test_a_missing_run_is_named():
    records = procedure_of("m", {**ONE, "new weights": [2.3], "random mask": [2.3], "shuffled mask": [2.3]}, NOISE)
    gone = [r for r in records if (r.request.arm, r.request.seed) != ("shuffled mask", 2)]
    found = ImpResults(gone).verdict["m"]
    (why,) = found.why_not.values()
    assert (found.verdict, why.arm, why.compared.case) == ("not decided", "shuffled mask", "missing")


def test_why_not_names_the_first_condition_that_is_not_met():
    fine, bad = Compared("equivalent", MeanCI(0.0, -0.01, 0.01)), Compared("undecided", MeanCI(-0.512, -1.72, 0.696))
    worse, better = (Compared(case, MeanCI(1, 1, 1)) for case in ("worse", "better"))
    assert why_not(worse, {"a": better}) == WhyNot("", worse)
    assert why_not(bad, {"a": worse, "b": better}) == WhyNot("b", better), "what rules a ticket out comes before what is open"
    assert why_not(bad, {"a": bad}) == WhyNot("", bad)
    assert why_not(fine, {"a": worse, "b": bad}) == WhyNot("b", bad)


def test_holm_gives_the_first_the_smallest_share_of_the_error_and_the_last_all_of_it():
    needed = {"a": 0.05 / 3, "b": 0.05 / 2, "c": 0.05, "d": 0.0}
    asked = []

    def judge(model, error):
        asked.append((model, error))
        return ("ticket", 1) if error <= needed[model] + 1e-12 else ("not decided", None)

    assert {m: v for m, (v, *_) in holm(["a", "b", "c"], judge).items()} == dict.fromkeys("abc", "ticket")
    assert holm(["b", "c"], judge)["c"] == ("ticket", 1, 0.025), "decided with the first already"
    assert {m: v for m, (v, *_) in holm(["c", "d"], judge).items()} == {"c": "ticket", "d": "not decided"}


def test_a_model_needs_one_level_for_a_ticket_and_all_of_them_for_none():
    worse, same, open_ = (Compared(case, MeanCI(0, 0, 0)) for case in ("worse", "equivalent", "undecided"))

    def at(cases):
        return lambda level, _: (cases[level], {"c": worse})

    assert of_model([1, 2, 3], at({1: same, 2: same, 3: worse}), 0.05) == ("ticket", 2)
    assert of_model([1, 2], at({1: worse, 2: worse}), 0.05) == ("no ticket", None)
    assert of_model([1, 2], at({1: worse, 2: open_}), 0.05) == ("not decided", None)
    assert of_model([], at({}), 0.05) == ("not decided", None)


CONTROLS = ("new weights", "random mask", "shuffled mask")


def verdicts_on(random, models: int, seeds: int, control: float) -> list[str]:
    """Verdicts on procedures in which tickets are a little better than the dense model at three levels, and controls ``control`` above
    them; a seed does something to all its arms, and chance to each."""

    def judge(model: int, error: float):
        return of_model([1, 2, 3], lambda level, error: at[model, level](error), error)

    def procedure():
        shared = random.normal(0, 0.1, seeds)
        dense, ticket, *others = (
            losses(*(level + shared + random.normal(0, 0.015, seeds))) for level in (2.0, 1.98, *[1.98 + control] * len(CONTROLS))
        )
        return lambda error: (
            compared(ticket, dense, 0.02, error),
            {arm: compared(one, ticket, 0.02, error) for arm, one in zip(CONTROLS, others, strict=True)},
        )

    at = {(model, level): procedure() for model in range(models) for level in (1, 2, 3)}
    return [verdict for verdict, *_ in holm(list(range(models)), judge).values()]


@pytest.mark.parametrize(("control", "wrong"), [(0.02, "ticket"), (0.025, "no ticket")])
def test_a_wrong_verdict_on_any_of_five_architectures_is_rarer_than_one_in_twenty(control, wrong):
    """Controls at the margin, where no ticket may be claimed; and a little beyond it, where none may be denied."""
    random, times = np.random.default_rng(5), 60
    assert sum(wrong in verdicts_on(random, 5, 5, control) for _ in range(times)) <= 0.05 * times


def test_with_enough_seeds_a_true_ticket_is_found_and_a_false_one_denied():
    random = np.random.default_rng(6)
    assert verdicts_on(random, 5, 8, 0.15) == ["ticket"] * 5
    assert verdicts_on(random, 5, 8, -0.06) == ["no ticket"] * 5
