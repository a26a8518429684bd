"""What is said and drawn about the runs of the ticket procedure."""

import math

import pytest

from lottery.analysis.imp.one_shot import at_a_cost, rank_agreement
from lottery.analysis.imp.results import ImpResults, Trouble
from lottery.analysis.imp.verdict import Verdict
from lottery.experiments.imp.arms import ARMS, DENSE
from lottery.experiments.threshold import Crossing
from lottery.report.sections import imp, imp_figures
from lottery.report.sections.one_shot_vs_imp import told
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


def verdict(records) -> Verdict:
    return ImpResults(records).verdict["phi-2"]


def test_a_verdict_needs_the_dense_model_matched_and_every_control_beaten():
    ticket, loser, any_mask = (verdict(procedure_of("phi-2", losses, NOISE)) for losses in (WINNER, LOSER, ANY_MASK))
    assert (ticket.verdict, ticket.left, ticket.beside.case, ticket.why_not) == ("ticket", pytest.approx(0.16), "equivalent", {})
    assert loser.verdict == any_mask.verdict == "no ticket"
    assert [(why.arm, why.compared.case) for why in loser.why_not.values()] == [("", "worse")] * 2
    assert [round(left, 2) for left in loser.why_not] == [0.4, 0.16]
    assert list(any_mask.why_not.values())[1].arm == "random mask"


def test_what_the_intervals_do_not_tell_apart_is_not_decided():
    """The same means as a winner's, but the seeds disagree about the ticket."""
    records = procedure_of("phi-2", WINNER, NOISE)
    for record in records:
        if record.request.arm == "ticket":
            record.result.loss += (-0.3, 0.0, 0.3)[record.request.seed]
    found = verdict(records)
    assert found.verdict == "not decided"
    assert ("", "undecided") in [(why.arm, why.compared.case) for why in found.why_not.values()]


def test_a_ticket_at_any_of_several_levels_needs_wider_intervals():
    """At each of two levels the plain interval would do; as it may be at either, it does not."""
    records = procedure_of("phi-2", {**WINNER, "ticket": [2.0, 2.0]}, NOISE)
    for record in records:
        if record.request.arm == "ticket":
            record.result.loss += (-0.0075, 0.0, 0.0075)[record.request.seed]
    outcome = ImpResults(records)
    plain, wide = (outcome.compared("phi-2", 2, error)[0] for error in (0.05, 0.025))
    assert (plain.case, wide.case) == ("equivalent", "undecided")
    found = outcome.verdict["phi-2"]
    assert found.verdict == "not decided"
    assert list(found.why_not.values())[1] == ("", wide)
    only = [record for record in records if record.request.level < 2]
    assert verdict(only).verdict == "ticket", "where there is but one level, the plain interval decides"


def test_a_ticket_that_beats_the_dense_model_is_told_so():
    found = verdict(procedure_of("phi-2", {**WINNER, "ticket": [1.7, 1.8]}, NOISE))
    assert found.beside.case == "better"
    assert found.beside.difference.value == pytest.approx(-0.2, abs=0.005)


def test_a_dense_model_that_diverged_decides_nothing():
    records = [record for record in procedure_of("phi-2", WINNER, NOISE) if record.request.arm not in DENSE]
    gone = {"curve": [(10, math.inf)], "problem": "diverged: x"}
    records += [ticket_of("phi-2", arm, 0, seed, math.inf, **gone) for seed in range(3) for arm in DENSE]
    assert verdict(records) == Verdict("not decided", obstacle="no dense loss")
    assert imp_figures.loss_over_weights_left(ImpResults(records))


def test_one_seed_decides_nothing_and_says_so_also_in_the_figure():
    outcome = ImpResults(procedure_of("phi-2", WINNER, [0.0]))
    assert outcome.verdict["phi-2"] == Verdict("not decided", obstacle="one seed")
    assert "one seed is too few for an interval" in imp.losses(outcome)
    assert "One seed: too few for intervals." in imp_figures.loss_over_weights_left(outcome).caption


@pytest.mark.parametrize(("noise", "cut"), [([0.0, 0.001], False), ([0.0, 0.8], True)])
def test_bars_that_leave_the_frame_are_told(noise, cut):
    """Student's interval of two seeds is thirteen times as wide as they lie from their mean."""
    caption = imp_figures.loss_over_weights_left(ImpResults(procedure_of("phi-2", WINNER, noise))).caption
    assert ("A bar without an end goes on beyond the frame." in caption) == cut


def test_what_is_not_trained_again_does_not_set_the_scale_of_the_figure():
    """On its scale, arms a few per cent apart would be one line: in the committed run it loses five times what the others lose."""
    plain = imp_figures.loss_over_weights_left(ImpResults(procedure_of("phi-2", {**WINNER, "pruned": [2.2, 2.4]}, NOISE)))
    far = imp_figures.loss_over_weights_left(ImpResults(procedure_of("phi-2", {**WINNER, "pruned": [9.0, 12.0]}, NOISE)))
    frames = [picture.figure.axes[0].get_ylim() for picture in (plain, far)]
    assert frames[1] == pytest.approx(frames[0])
    assert "A triangle at the top: the mean is beyond the frame." in far.caption
    assert "A triangle" not in plain.caption
    assert "pruned: 40% left 9.00, 16% left 12.0" in far.alt


def test_one_shot_to_the_first_level_is_its_ticket():
    outcome = ImpResults(procedure_of("phi-2", WINNER, NOISE))
    assert list(outcome.by_seed("phi-2", "one-shot", 1)) == list(outcome.by_seed("phi-2", "ticket", 1))
    assert list(outcome.by_seed("phi-2", "one-shot", 2)) != list(outcome.by_seed("phi-2", "ticket", 2))


def test_losses_stand_in_a_table_an_arm_a_row():
    text = imp.losses(ImpResults(procedure_of("phi-2", WINNER, NOISE)))
    rows = {row.split("|")[1].strip(): row for row in text.splitlines() if row.startswith("|")}
    assert list(rows)[2:] == list(ARMS)
    assert "nan" not in text
    assert rows["dense"].count("2.00 (1.75 to 2.25)") == 1
    assert "the mean of 3 seeds with its 95% interval" in text


def test_a_run_without_a_finite_loss_is_named_drawn_at_the_edge_and_no_ticket():
    records = [record for record in procedure_of("phi-2", WINNER, NOISE) if (record.request.arm, record.request.level) != ("ticket", 2)]
    records += [ticket_of("phi-2", "ticket", 2, seed, math.inf, curve=[(10, math.inf)], problem="diverged: x") for seed in range(3)]
    outcome = ImpResults(records)
    assert outcome.troubles == [Trouble("phi-2", pytest.approx(0.16), ["ticket"], [0, 1, 2], "diverged: x")]
    assert imp.problems(outcome) == "- phi-2 with 16% left, ticket of seed 0, 1, 2: diverged: x"
    assert "∞" in imp_figures.loss_over_weights_left(outcome).svg
    assert "ticket: 40% left 1.99, 16% left ∞" in imp_figures.loss_over_weights_left(outcome).alt
    assert outcome.verdict["phi-2"].verdict == "ticket", "the level before is one all the same"


def test_a_level_that_could_not_be_made_has_no_loss_and_the_mean_is_of_the_other_seeds():
    records = [record for record in procedure_of("phi-2", WINNER, NOISE) if (record.request.arm, record.request.level) != ("one-shot", 2)]
    for seed in range(3):
        made = ticket_of("phi-2", "one-shot", 2, seed, 2.1 if seed else math.inf, problem="" if seed else "leaves nothing of q")
        if seed == 0:
            made.result.curve = []
        records.append(made)
    outcome = ImpResults(records)
    rows = {line.split("|")[1].strip(): line.split("|")[2:-1] for line in imp.losses(outcome).splitlines() if "|" in line}
    assert rows["one-shot"][2].strip() == "2.10 (2.10 to 2.10), 2 of 3 seeds"
    assert outcome.troubles == [Trouble("phi-2", pytest.approx(0.16), ["one-shot"], [0], "leaves nothing of q")]
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


def test_the_score_of_a_ticket_lies_between_the_levels_where_its_loss_is_up_by_five_per_cent():
    records = procedure_of("phi-2", {"dense": [2.0], "ticket": [2.0, 2.205]}, [0.0, 0.0])
    assert at_a_cost(ImpResults(records))["phi-2"] == pytest.approx((0.6, 0.84))
    never = procedure_of("phi-2", {"dense": [2.0], "ticket": [2.0, 2.0]}, [0.0, 0.0])
    assert at_a_cost(ImpResults(never))["phi-2"] == (pytest.approx(0.84), math.inf)


def test_the_bridge_compares_two_rankings():
    names = ["a", "b", "c", "d", "e"]
    records = [
        record
        for index, name in enumerate(names)
        for record in procedure_of(name, {"dense": [2.0], "ticket": [2.0, 2.0 + 0.1 * index]}, NOISE)
    ]
    outcome = ImpResults(records)
    same = {name: crossing(0.6 - 0.1 * index) for index, name in enumerate(names)}
    found = rank_agreement(outcome, same)
    assert (found.models, found.left, found.rho, found.decided) == (5, pytest.approx(0.16), pytest.approx(1), True)
    assert found.p == pytest.approx(2 / 120)
    other = {name: crossing(0.1 + 0.1 * index) for index, name in enumerate(names)}
    assert (rank_agreement(outcome, other).rho, rank_agreement(outcome, other).decided) == (pytest.approx(-1), True)
    some = {name: crossing(at) for name, at in zip(names, (0.3, 0.5, 0.2, 0.4, 0.1), strict=True)}
    assert not rank_agreement(outcome, some).decided
    few = rank_agreement(outcome, dict(list(same.items())[:4]))
    assert (few.models, few.comparable) == (4, False), "of four, no order is rarer than 1 in 12"
    assert "c: one shot 40%, ticket 1.10 times the dense loss." in imp_figures.bridge(outcome, same).alt
    assert imp_figures.bridge(outcome, {}) is None
    lines = [line.split("|")[1:-1] for line in told(outcome, same).splitlines() if "|" in line]
    rows = {cells[0].strip(): [cell.strip() for cell in cells[1:]] for cells in lines}
    assert rows["a"][:3] == ["60%", "", "above 84%"]
    assert rows["c"][0] == "40%"
    assert rows["c"][2] == "60% to 84%"
    assert rows["c"][3].startswith("1.10 (")


def test_nothing_recorded_is_said_and_not_drawn():
    outcome = ImpResults([])
    assert imp.verdicts(outcome) == "*No run is recorded.*"
    assert imp.losses(outcome) == imp.problems(outcome) == imp.protocol(outcome, "") == ""
    assert imp_figures.loss_over_weights_left(outcome) is None
    assert imp_figures.steps_over_weights_left(outcome) is None


def test_what_has_only_begun_is_told_as_far_as_it_is():
    begun = ImpResults([ticket_of("phi-2", "dense", 0, 0, 2.0)])
    assert begun.verdict["phi-2"] == Verdict("not decided", obstacle="only dense")
    assert "| dense |" in " ".join(imp.losses(begun).split())
    assert imp_figures.loss_over_weights_left(begun) is None
    assert rank_agreement(begun, {"phi-2": crossing(0.5)}).models == 0
    half = ImpResults(procedure_of("phi-2", WINNER, NOISE)[:4])
    assert half.verdict["phi-2"].verdict == "not decided"
    assert "ticket: 40% left 1.99" in imp_figures.loss_over_weights_left(half).alt
    assert imp.losses(half)
    assert told(half, {})


def test_every_arm_is_in_the_figure_with_a_mark_of_its_own():
    picture = imp_figures.loss_over_weights_left(ImpResults(procedure_of("phi-2", WINNER, NOISE)))
    for arm in (arm for arm in ARMS if arm not in DENSE):
        assert f"phi-2, {arm}: 40% left" in picture.alt
        assert f"<!-- {arm} -->" in picture.svg
    assert "phi-2, dense: 2.0" in picture.alt
