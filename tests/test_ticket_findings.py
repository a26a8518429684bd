"""What is said and drawn about the runs of the ticket procedure."""

import math

import pytest

from lottery.experiments.imp.arms import ARMS, DENSE
from lottery.experiments.threshold import Crossing
from lottery.report.sections import imp_figures
from lottery.report.sections.imp import ImpResults
from lottery.report.sections.one_shot_vs_imp import at_a_cost, does_one_shot_tell, told
from tests.factory import procedure_of, ticket_of

NOISE = [0.0, 0.1, -0.1]
WINNER = {
    "dense": [2.0], "pruned": [2.5, 4.0], "ticket": [1.99, 2.0], "one-shot": [1.99, 2.1],
    "new weights": [2.2, 2.4], "random mask": [2.2, 2.5], "shuffled mask": [2.3, 2.5],
}  # fmt: skip
LOSER = {**WINNER, "ticket": [2.3, 2.6], "one-shot": [2.3, 2.7], "new weights": [2.5, 2.8], "random mask": [2.6, 2.9]}
ANY_MASK = {**WINNER, "random mask": [1.99, 2.0]}


def crossing(at: float) -> dict[str, Crossing]:
    return {"5% more": Crossing(at, at - 0.01, at + 0.01, at - 0.01, at + 0.01, [], [], 20)}


@pytest.mark.parametrize(
    ("losses", "verdict", "because"),
    [
        (WINNER, "ticket", "with 16% of the weights left it does as well as the dense model"),
        (LOSER, "no ticket", "with 40% left it is worse than the dense model (loss +0.3"),
        (ANY_MASK, "no ticket", "with 16% left random mask does as well"),
    ],
)
def test_a_verdict_needs_the_dense_model_matched_and_every_control_beaten(losses, verdict, because):
    found, why = ImpResults(procedure_of("phi-2", losses, NOISE)).verdict["phi-2"]
    assert found == verdict
    assert because in why


def test_what_the_intervals_do_not_tell_apart_is_not_decided():
    """The same means as a winner's, but the seeds disagree about the ticket."""
    records = procedure_of("phi-2", WINNER, NOISE)
    for record in records:
        if record.request.arm == "ticket":
            record.result.loss += (-0.3, 0.0, 0.3)[record.request.seed]
    found, why = ImpResults(records).verdict["phi-2"]
    assert found == "not decided"
    assert "it is not shown to do as well as the dense model" in why


def test_a_ticket_at_any_of_several_levels_needs_wider_intervals():
    """At each of two levels the plain interval would do; as it may be at either, it does not."""
    records = procedure_of("phi-2", {**WINNER, "ticket": [2.0, 2.0]}, NOISE)
    for record in records:
        if record.request.arm == "ticket":
            record.result.loss += (-0.0075, 0.0, 0.0075)[record.request.seed]
    outcome = ImpResults(records)
    plain, wide = (outcome.compared("phi-2", 2, error)[0] for error in (0.05, 0.025))
    assert (plain.case, wide.case) == ("equivalent", "undecided")
    found, why = outcome.verdict["phi-2"]
    assert found == "not decided"
    assert f"it is not shown to do as well as the dense model ({wide})" in why
    only = [record for record in records if record.request.level < 2]
    assert ImpResults(only).verdict["phi-2"][0] == "ticket", "where there is but one level, the plain interval decides"


def test_a_ticket_that_beats_the_dense_model_is_told_so():
    _, why = ImpResults(procedure_of("phi-2", {**WINNER, "ticket": [1.7, 1.8]}, NOISE)).verdict["phi-2"]
    assert why.startswith("with 16% of the weights left it does better than the dense model (loss -0.2")


def test_a_dense_model_that_diverged_decides_nothing():
    records = [record for record in procedure_of("phi-2", WINNER, NOISE) if record.request.arm not in DENSE]
    gone = {"curve": [(10, math.inf)], "problem": "diverged: x"}
    records += [ticket_of("phi-2", arm, 0, seed, math.inf, **gone) for seed in range(3) for arm in DENSE]
    assert ImpResults(records).verdict["phi-2"] == ("not decided", "a dense run has no finite loss")
    assert imp_figures.loss_over_weights_left(ImpResults(records))


def test_one_seed_decides_nothing_and_says_so_also_in_the_figure():
    outcome = ImpResults(procedure_of("phi-2", WINNER, [0.0]))
    assert outcome.verdict["phi-2"] == ("not decided", "an interval needs at least two seeds")
    assert "one seed is too few for an interval" in outcome.losses()
    assert "One seed: too few for intervals." in imp_figures.loss_over_weights_left(outcome).caption


@pytest.mark.parametrize(("noise", "cut"), [([0.0, 0.01], False), ([0.0, 0.8], True)])
def test_bars_that_leave_the_frame_are_told(noise, cut):
    """Student's interval of two seeds is thirteen times as wide as they lie from their mean."""
    caption = imp_figures.loss_over_weights_left(ImpResults(procedure_of("phi-2", WINNER, noise))).caption
    assert ("A bar without an end goes on beyond the frame." in caption) == cut


def test_one_shot_to_the_first_level_is_its_ticket():
    outcome = ImpResults(procedure_of("phi-2", WINNER, NOISE))
    assert list(outcome.by_seed("phi-2", "one-shot", 1)) == list(outcome.by_seed("phi-2", "ticket", 1))
    assert list(outcome.by_seed("phi-2", "one-shot", 2)) != list(outcome.by_seed("phi-2", "ticket", 2))


def test_losses_stand_in_a_table_an_arm_a_row():
    text = ImpResults(procedure_of("phi-2", WINNER, NOISE)).losses()
    rows = {row.split("|")[1].strip(): row for row in text.splitlines() if row.startswith("|")}
    assert list(rows)[2:] == list(ARMS)
    assert "nan" not in text
    assert rows["dense"].count("2.00 (1.75 to 2.25)") == 1
    assert "the mean of 3 seeds with its 95% interval" in text


def test_a_run_without_a_finite_loss_is_named_drawn_at_the_edge_and_no_ticket():
    records = [record for record in procedure_of("phi-2", WINNER, NOISE) if (record.request.arm, record.request.level) != ("ticket", 2)]
    records += [ticket_of("phi-2", "ticket", 2, seed, math.inf, curve=[(10, math.inf)], problem="diverged: x") for seed in range(3)]
    outcome = ImpResults(records)
    assert outcome.problems() == "- phi-2 with 16% left, ticket of seed 0, 1, 2: diverged: x"
    assert "∞" in imp_figures.loss_over_weights_left(outcome).svg
    assert "ticket: 40% left 1.99, 16% left ∞" in imp_figures.loss_over_weights_left(outcome).alt
    assert outcome.verdict["phi-2"][0] == "ticket", "the level before is one all the same"


def test_a_level_that_could_not_be_made_has_no_loss_and_the_mean_is_of_the_other_seeds():
    records = [record for record in procedure_of("phi-2", WINNER, NOISE) if (record.request.arm, record.request.level) != ("one-shot", 2)]
    for seed in range(3):
        made = ticket_of("phi-2", "one-shot", 2, seed, 2.1 if seed else math.inf, problem="" if seed else "leaves nothing of q")
        if seed == 0:
            made.result.curve = []
        records.append(made)
    outcome = ImpResults(records)
    rows = {line.split("|")[1].strip(): line.split("|")[2:-1] for line in outcome.losses().splitlines() if "|" in line}
    assert rows["one-shot"][2].strip() == "2.10 (2.10 to 2.10), 2 of 3 seeds"
    assert outcome.problems() == "- phi-2 with 16% left, one-shot of seed 0: leaves nothing of q"
    assert "a mean is of the other seeds" in imp_figures.loss_over_weights_left(outcome).caption
    assert "one-shot: 40% left 1.99, 16% left 2.10" in imp_figures.loss_over_weights_left(outcome).alt


def test_steps_to_the_dense_models_loss_after_half_its_steps():
    dense = [ticket_of("phi-2", "dense", 0, seed, 2.0, curve=[(25, 5.0), (50, 3.0), (100, 2.0)]) for seed in range(2)]
    quick = ticket_of("phi-2", "ticket", 1, 0, 1.5, curve=[(20, 4.0), (40, 2.0), (100, 1.5)])
    never = ticket_of("phi-2", "ticket", 1, 1, 3.5, curve=[(20, 4.0), (100, 3.5)])
    at_once = ticket_of("phi-2", "new weights", 1, 0, 1.5, curve=[(20, 2.5), (100, 1.5)])
    outcome = ImpResults([*dense, quick, never, at_once])
    assert outcome.targets == {"phi-2": 3.0}
    assert list(outcome.by_seed("phi-2", "dense", 0, "steps")) == [50, 50]
    assert list(outcome.by_seed("phi-2", "ticket", 1, "steps")) == [30, math.inf]
    assert list(outcome.by_seed("phi-2", "new weights", 1, "steps")) == [20]
    assert "∞: it is never reached" in imp_figures.steps_over_weights_left(outcome).caption


def test_the_score_of_a_ticket_is_where_its_loss_is_up_by_five_per_cent():
    records = procedure_of("phi-2", {"dense": [2.0], "ticket": [2.0, 2.205]}, [0.0, 0.0])
    assert at_a_cost(ImpResults(records))["phi-2"] == pytest.approx(0.6 + 0.24 * 0.5, abs=0.01)
    assert at_a_cost(ImpResults(procedure_of("phi-2", {"dense": [2.0], "ticket": [2.0, 2.0]}, [0.0, 0.0])))["phi-2"] == math.inf


def test_the_bridge_compares_two_rankings():
    names = ["a", "b", "c", "d", "e"]
    records = [
        record
        for index, name in enumerate(names)
        for record in procedure_of(name, {"dense": [2.0], "ticket": [2.0, 2.0 + 0.1 * index]}, NOISE)
    ]
    outcome = ImpResults(records)
    same = {name: crossing(0.6 - 0.1 * index) for index, name in enumerate(names)}
    assert does_one_shot_tell(outcome, same).startswith("Yes: the rank correlation of how sparse")
    assert does_one_shot_tell(outcome, same).endswith("with 16% left is +1.00 over 5 architectures (p = 0.02).")
    other = {name: crossing(0.1 + 0.1 * index) for index, name in enumerate(names)}
    assert does_one_shot_tell(outcome, other).startswith("No, the contrary: ")
    assert "is -1.00 over 5" in does_one_shot_tell(outcome, other)
    some = {name: crossing(at) for name, at in zip(names, (0.3, 0.5, 0.2, 0.4, 0.1), strict=True)}
    assert does_one_shot_tell(outcome, some).startswith("Not decided")
    assert does_one_shot_tell(outcome, {"a": crossing(0.3)}).startswith("Fewer than three architectures have both scores (1)")
    assert "c: one shot 40%, ticket 1.10 times the dense loss." in imp_figures.bridge(outcome, same).alt
    assert imp_figures.bridge(outcome, {}) is None
    lines = [line.split("|")[1:-1] for line in told(outcome, same).splitlines() if "|" in line]
    rows = {cells[0].strip(): [cell.strip() for cell in cells[1:]] for cells in lines}
    assert rows["a"][:3] == ["60%", "", "above 84%"]
    assert rows["c"][0] == "40%"
    assert rows["c"][2] == "72.3%", "log(1.05) / log(1.1) of the way from 60% to 84%"
    assert rows["c"][3].startswith("1.10 (")


def test_nothing_recorded_is_said_and_not_drawn():
    outcome = ImpResults([])
    assert outcome.verdicts() == "*No run is recorded.*"
    assert outcome.losses() == outcome.problems() == ""
    assert imp_figures.loss_over_weights_left(outcome) is None
    assert imp_figures.steps_over_weights_left(outcome) is None


def test_what_has_only_begun_is_told_as_far_as_it_is():
    begun = ImpResults([ticket_of("phi-2", "dense", 0, 0, 2.0)])
    assert begun.verdict["phi-2"] == ("not decided", "nothing is recorded but the dense model")
    assert "| dense |" in " ".join(begun.losses().split())
    assert imp_figures.loss_over_weights_left(begun) is None
    assert does_one_shot_tell(begun, {"phi-2": crossing(0.5)}).startswith("Fewer than three architectures have both scores (0)")
    half = ImpResults(procedure_of("phi-2", WINNER, NOISE)[:4])
    assert half.verdict["phi-2"][0] == "not decided"
    assert "ticket: 40% left 1.99" in imp_figures.loss_over_weights_left(half).alt
    assert half.losses()
    assert told(half, {})


def test_every_arm_is_in_the_figure_with_a_mark_of_its_own():
    picture = imp_figures.loss_over_weights_left(ImpResults(procedure_of("phi-2", WINNER, NOISE)))
    for arm in (arm for arm in ARMS if arm not in DENSE):
        assert f"phi-2, {arm}: 40% left" in picture.alt
        assert f"<!-- {arm} -->" in picture.svg
    assert "phi-2, dense: 2.0" in picture.alt
