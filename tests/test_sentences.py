"""How findings are worded, each case of a template once. What is found is tested in ``test_findings``."""

import math
from dataclasses import replace

import numpy as np
import pytest

from lottery.analysis import findings
from lottery.analysis.findings import Agreement, Decline, Latest, MethodRanking, SizeCorrelation, Survivors
from lottery.analysis.imp.one_shot import RankAgreement
from lottery.analysis.imp.results import ImpResults
from lottery.analysis.imp.verdict import MARGIN, Compared, MeanCI, Verdict, WhyNot
from lottery.analysis.layers import Extremes, UnevenWay, WhereZerosAre
from lottery.analysis.protocols import Extreme
from lottery.analysis.published import ChangeHere, Difference, FirstTable, MagnitudeGap, OtherProtocol, Reproduction
from lottery.analysis.sizes import BestAtSize
from lottery.common.format import multiple
from lottery.experiments.threshold import Crossing
from lottery.report.sentences import from_to, listed, sentences, ways
from tests.factory import BAD, COARSE, GOOD, curve, procedure_of, ticket_of

FINE = (0.0, 0.5, 0.52)
TOUGH = curve("tough", 1, 1, 1, 1, 1.01, 1.02, 1.02)
SCORES = findings.scores([*GOOD, *BAD, *COARSE, *TOUGH, *curve("few", 1, 1.04, 1.06, sparsities=FINE, windows=3)], "magnitude")


def best(ranks, rivals=(), left_out=(), survivors=()):
    return sentences("best_ticket", found=findings.BestTicket(list(ranks), list(rivals), list(left_out), SCORES, list(survivors)))


def test_the_best_ticket_is_named_with_its_scores_and_the_next():
    assert best(["good", "bad"]) == (
        "**good** has the best ticket: its text costs 5% more bits per byte at 51.3% (95%: 50% to 52%) sparsity, twice as many at 71% (95%:"
        " 70% to 72%). Next is bad: its text costs 5% more bits per byte at 30.7% (95%: 30% to 32%) sparsity, twice as many at 51% (95%: 50%"
        " to 52%)."
    )
    assert best(["tough", "bad"]).startswith(
        "**tough** has the best ticket: even at 72% sparsity its text costs less than 5% more bits per byte. Next is bad: its text"
    )


def test_rivals_of_the_best_are_named():
    assert best(["good", "bad"], rivals=["bad"]) == (
        "**No model clearly has the best ticket**: good and bad cannot be told apart. Text costs 5% more bits per byte at these sparsities:"
        " good at 51.3% (95%: 50% to 52%); bad at 30.7% (95%: 30% to 32%)."
    )
    assert "**: good, bad and tough cannot be told apart." in best(["good", "bad", "tough"], rivals=["bad", "tough"])
    assert "**: good and tough cannot be told apart." in best(["good", "bad", "tough"], rivals=["tough"]), "rivals need not be neighbours"
    assert "**: there are too few windows to tell models apart. Text costs" in best(["few", "bad"], rivals=["bad"])
    assert best(["good", "bad", "tough"], rivals=["tough"]).endswith("good at 51.3% (95%: 50% to 52%); tough above 72%.")


def test_a_model_alone_is_judged_alone():
    """The first real model: a straight line from dense to 50% put the score at 3.4%, where 20 to 30% were true."""
    assert best(["coarse"]) == (
        "**coarse** is the only model measured: its text costs 5% more bits per byte between dense and 50% sparsity, twice as many between"
        " 50% and 70%."
    )
    assert best(["good"], left_out=["gap", "half"]).startswith("Only **good** can be judged so far: its text")
    assert "Not compared, because a measurement is missing or the dense model's is not finite: gap, half." in best(
        ["good"], left_out=["gap", "half"]
    )
    assert best([]) == "No model has been measured both dense and at every sparsity, so nothing can be compared."


def at(*sparsities, models=(), measured=1):
    return [Survivors(sparsity, list(models), measured) for sparsity in sparsities]


@pytest.mark.parametrize(
    ("survivors", "said"),
    [
        (at(0.5, models=["good"]), "It keeps working at 50%."),
        (at(0.5, 0.7, models=["good"]), "It keeps working at 50% and 70%."),
        (at(0.5, models=["good"]) + at(0.7, 0.9), "It keeps working at 50%, not at 70% or 90%."),
        (at(0.5, 0.7, 0.9), "It does not keep working at 50%, 70% or 90%."),
    ],
)
def test_where_one_model_keeps_working(survivors, said):
    assert best(["good"], survivors=survivors).endswith(f" {said}")


def test_who_keeps_working_is_said_once_for_many_sparsities():
    two = ["good", "bad"]
    said = best(two, survivors=at(0.1, 0.2, models=two, measured=2) + at(0.3, models=["good"], measured=2) + at(0.4, 0.5, 0.6, measured=2))
    assert said.endswith(" Of the models measured, these keep working: at 10% and 20% all 2; at 30% good; from 40% to 60% none of 2.")


def size(*correlations, models=5):
    return sentences("size", models=models, found=[SizeCorrelation(*values) for values in correlations], fewest=findings.FEWEST_MODELS)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([(0.5, 1.0, 1 / 60, 5), (0.7, 0.0, 1.0, 5)], "Yes at 50%."),
        ([(0.5, -1.0, 1 / 60, 5)], "No: smaller ones do at 50%."),
        ([(0.5, 1.0, 1 / 60, 5), (0.7, -1.0, 1 / 60, 5)], "Yes at 50%; smaller ones do at 70%."),
        ([(0.5, 0.3, 0.6, 5)], "Not decided: such a correlation could be chance."),
        ([(0.5, 1.0, 1 / 3, 3)], "Cannot be decided with fewer than 5 models."),
    ],
)
def test_whether_bigger_models_prune_better(values, said):
    assert size(*values).startswith(f"{said} Rank correlation of size with how little is lost (bits per byte): ")


def test_correlations_are_given_with_their_models_and_chance():
    assert size((0.5, 1.0, 1 / 60, 5), (0.7, -0.5, 1.0, 4)).endswith(": +1.00 at 50% (5 models, p = 0.02); -0.50 at 70% (4 models).")
    assert size(models=1) == "One model alone cannot answer this."
    assert size(models=2) == "Cannot be decided: fewer than three models can be compared at any sparsity."


def test_the_cliff_lies_between_both_levels_of_the_ticket_score():
    assert sentences("cliff", scores={model: SCORES[model] for model in ("good", "coarse")}) == (
        "Where bits per byte go from 5% more to twice the dense model's: good from 51.3% to 71%; coarse from between dense and 50% to between"
        " 50% and 70%. A cliff may lie anywhere between the two measured sparsities around it."
    )
    assert sentences("cliff", scores={}) == "No model has a finite dense and a pruned measurement, so no cliff can be seen."


def grace(*found):
    return sentences("grace", found=list(found), grace=findings.GRACE)


def declined(model, at, low, high, rivals=(), windows=20, above=None):
    known = np.array([low]) if windows >= 20 else np.array([])
    return Decline(model, Crossing(at, low, above or high, low, high, known, known, windows), 0.7, list(rivals))


def test_grace_is_not_to_double_however_far_it_is_measured():
    gentle = replace(declined("gentle", math.inf, 0.2, math.inf), measured_to=0.95)
    steep, steeper = declined("steep", 0.2, 0.18, 0.22), declined("steeper", 0.1, 0.095, 0.11)
    assert grace(gentle, steep) == "Yes: gentle (up to 95%); bits per byte never double within what was measured."
    no = "No: every model doubles its bits per byte within what was measured."
    slowest = f"{no} steep declines most slowly: it takes 20.0 (95%: 18.0 to 22.0) points of sparsity from 5% more to twice as many."
    assert grace(steep, steeper) == slowest
    assert grace(steeper) == f"{no} steeper takes 10.0 (95%: 9.5 to 11.0) points of sparsity from 5% more to twice as many."
    assert grace() == "No model has been measured both dense and at every sparsity."


def test_a_model_whose_bits_have_not_doubled_where_measuring_ends_early_is_not_praised():
    early = declined("early", math.inf, 0.2, math.inf)
    said = "Not known: early (up to 70%); bits per byte have not doubled within what was measured, but it was not measured up to 90%."
    assert grace(early, declined("steep", 0.2, 0.18, 0.22)) == said


def test_which_declines_most_slowly_is_said_only_where_it_can_be_told():
    first, other = declined("a", 0.21, 0.2, 0.22, ["b"]), declined("b", 0.2, 0.19, 0.21)
    assert grace(first, declined("c", 0.1, 0.1, 0.1), other).endswith(
        "From 5% more to twice as many takes a 21.0 (95%: 20.0 to 22.0), b 20.0 (95%: 19.0 to 21.0) points of sparsity;"
        " which of these declines most slowly cannot be told."
    )
    few = [declined(model, 0.2, 0.19, 0.21, rivals, windows=3) for model, rivals in (("a", ["b"]), ("b", []))]
    assert grace(*few).endswith(
        "takes a 20.0, b 20.0 points of sparsity; which of these declines most slowly cannot be told from so few windows."
    )


def test_which_method_keeps_most():
    lost = {"sparsegpt": 0.3, "ria": 0.301, "wanda": 0.31, "random": math.inf}
    known = MethodRanking(0.5, lost, models=1, wins=1, interval=(0.29, 0.31), rivals=["ria", "wanda"])
    said = "At 50% sparsegpt loses least, 0.300 (0.290 to 0.310) bits per byte, random most, ∞; ria and wanda cannot be told apart from sparsegpt."
    assert sentences("methods", found=[known]) == said
    told = " Ways of pruning are told apart window by window, by intervals that allow for all pairs of them at all sparsities."
    assert sentences("methods", found=[replace(known, pairs=6)]) == said + told
    unsure = MethodRanking(0.7, {"wanda": 1.25, "random": 8.0}, models=3, wins=2, interval=None)
    assert sentences("methods", found=[unsure]) == (
        "At 70% wanda loses least, 1.25 bits per byte in the mean of 3 models (least of all in 2), random most, 8.00."
        " There are too few windows to tell ways of pruning apart."
    )
    assert sentences("methods", found=[]) == "No sparsity has two ways of pruning measured on the same models, so they cannot be compared."


@pytest.mark.parametrize(
    ("best", "undecided", "said"),
    [
        ({"magnitude": "a", "wanda": "a"}, [], "2 ways of pruning find the best ticket in the same model, a."),
        ({"magnitude": "a", "wanda": "b"}, [], "The best ticket depends on the pruning method: a by magnitude; b by wanda."),
        ({"magnitude": "a"}, ["wanda"], "It is not decided whether the best ticket depends on the pruning method. By wanda it cannot be told which model is best."),
        ({"magnitude": "a"}, [], ""),
    ],
)  # fmt: skip
def test_whether_the_best_ticket_depends_on_the_way_of_looking(best, undecided, said):
    assert sentences("agreement", found=Agreement(best, undecided)) == said


def test_who_is_best_at_a_size():
    small, large = BestAtSize("small", "dense", 100 << 20), BestAtSize("large", "magnitude\u00a050%", 120 << 20)
    front = "The best variants with coherent texts, from the fewest bytes up: small dense (100 MiB)"
    assert sentences("best_at_size", found=[small, large]) == (
        f"{front}, large magnitude\u00a050% (0.12 GiB). No model that is brought down to the size of a smaller dense model is shown to predict the text"
        " better than that model."
    )
    winner = BestAtSize("large", "wanda\u00a050%", 120 << 20, ["bad", "worse"])
    assert sentences("best_at_size", found=[small, winner]).endswith(
        "(0.12 GiB). So it can pay to start from a larger model: large wanda\u00a050% predicts the text better than the dense bad and worse"
        " and takes no more bytes."
    )
    assert sentences("best_at_size", found=[]) == ("With fewer than two dense models, sizes cannot be compared.")


def test_where_the_zeros_are():
    assert sentences("zeros", found=WhereZerosAre(["ria"], [])) == "ria removes the same share from every layer."
    kinds, blocks = Extremes("mlp.up_proj", 0.3, "self_attn.q_proj", 0.7), Extremes(1, 0.3, 0, 0.7)
    found = [
        UnevenWay("magnitude-global", 0.5, kinds, blocks), UnevenWay("wanda + owl", 0.6, kinds, None), UnevenWay("ria", 0.7, None, blocks),
        UnevenWay("wanda + alphapruning", 0.5, None, None),
    ]  # fmt: skip
    assert sentences("zeros", found=WhereZerosAre(["magnitude", "wanda"], found)) == (
        "magnitude and wanda remove the same share from every layer."
        " magnitude-global at 50% takes least from mlp.up_proj (30%) and most from self_attn.q_proj (70%);"
        " takes least from block 1 (30%) and most from block 0 (70%)."
        " wanda + owl at 60% takes least from mlp.up_proj (30%) and most from self_attn.q_proj (70%)."
        " ria at 70% takes least from block 1 (30%) and most from block 0 (70%)."
        " wanda + alphapruning at 50% takes the same share from every kind of layer and every block, over all models together."
    )
    assert sentences("zeros", found=None) == "No pruned variant is recorded yet."


def test_how_far_the_figures_here_are_from_published_ones():
    found = [Difference("Mistral-7B-v0.1", "dense", 0.009), Difference("Llama-2-7B", "wanda 50%", -0.021)]
    assert sentences("differences", found=found, stand_ins=False) == (
        "Measured here against published: Mistral-7B-v0.1 dense +0.9%, Llama-2-7B wanda 50% -2.1%."
        " With an identical protocol, differences of about 1% are normal."
    )
    assert sentences("differences", found=[], stand_ins=True).startswith("*Here* is empty because stand-ins were measured. They")
    assert sentences("differences", found=[], stand_ins=False) == (
        "*Here* is empty: no model was measured in a way that has a published figure."
    )


def test_the_first_table_is_set_beside_the_full_test():
    assert sentences("first_table", found=FirstTable("Mistral-7B-v0.1", 4.0, 6.456, 5.253)) == (
        "The first table on Mistral-7B-v0.1, which this study measures again, gave its dense model 4.00. The full test in windows of 2048"
        " tokens gives 5.25 elsewhere, 31% more; no protocol over the full test gives 4.00, but one over part of it may. At 50% the table has"
        " 6.46: 1.61 times 4.00, but only 1.23 times 5.25. Its dense model ran on a different GPU than the rest. Each ratio in this report"
        " therefore uses a dense model measured in the same run."
    )


def test_how_much_depends_on_the_way_of_pruning():
    found = [MagnitudeGap("Llama-3-8B", "50%", "2048", 2499.39, "ria", 9.34), MagnitudeGap("a", "60%", "4096", 20.0, "wanda", 9.0)]
    assert sentences("magnitude_gaps", found=found) == (
        "How much depends on the way of pruning, as published: Llama-3-8B at 50% (2048 tokens): magnitude 2,499, ria 9.34;"
        " a at 60% (4096 tokens): magnitude 20.0, wanda 9.00."
    )


@pytest.mark.parametrize(
    ("change", "what"), [(-0.22, "One protocol here comes near:"), (-0.07, "No protocol here comes near; the nearest is")]
)
def test_which_protocol_may_be_behind_a_figure_that_does_not_name_its_own(change, what):
    here = [ChangeHere("a", "the first window alone", change)]
    assert sentences("unnamed_protocols", found=[OtherProtocol("Mistral-7B-v0.1", 4.0, "not stated", "a page", 5.253, False, here)]) == (
        "Mistral-7B-v0.1's 4.00 is -23.9% against the full test's 5.25. Its source does not name the part of the test."
        f" {what} the first window alone, {100 * change:.1f}% on a."
    )


def test_which_protocol_reproduces_a_published_figure():
    close = Reproduction("Tiny-1B", 10.1, "a paper", "2048", ["the standard protocol", "float16"], "float16", 10.1)
    far = Reproduction("Tiny-1B", 7.0, "a page", "not stated", [], "the first window alone", 8.0)
    assert sentences("reproduced", name="Tiny-1B", found=[close, far], same=0.01) == (
        "Published of Tiny-1B: 10.1 (a paper; protocol: 2048); reproduced within 1% by the standard protocol and float16."
        " Published of Tiny-1B: 7.00 (a page; protocol: not stated); no protocol here reproduces it; nearest is the first window alone with"
        " 8.00."
    )
    assert sentences("reproduced", name="Tiny-1B-Instruct", found=[close], same=0.01).startswith(
        "Published of Tiny-1B, of which Tiny-1B-Instruct is a version: 10.1"
    )
    assert (
        sentences("reproduced", name="a", found=[], same=0.01) == "No dense perplexity of a is listed in `lottery/analysis/published.csv`."
    )


def test_how_far_apart_protocols_lie():
    assert sentences("protocols", model="phi-2", low=Extreme("float16", 9.0), high=Extreme("windows of 16", 14.0)) == (
        "**phi-2**, dense: the perplexity on the same text ranges from 9.00 (float16) to 14.0 (windows of 16). A perplexity means nothing"
        " without its protocol."
    )


def compared(case, *difference):
    return Compared(case, MeanCI(*difference or (-0.512, -1.72, 0.696)))


def test_a_ticket_is_named_with_what_it_leaves_and_how_it_compares():
    found = Verdict("ticket", left=0.16, beside=compared("equivalent", -0.01, -0.02, 0.005))
    assert sentences("verdict", model="phi-2", found=found) == (
        "**phi-2: ticket.** With 16% of the weights left it does as well as the dense model (loss -0.0100 (-0.0200 to +0.00500)), and every"
        " control does worse."
    )
    better = Verdict("ticket", left=0.16, beside=compared("better", -0.2, -0.3, -0.1))
    assert "it does better than the dense model (loss -0.200 (" in sentences("verdict", model="phi-2", found=better)


@pytest.mark.parametrize(
    ("arm", "case", "why"),
    [
        ("", "diverged", "it has a finite loss in no seed"),
        ("", "worse", "it is worse than the dense model (loss -0.512 (-1.72 to +0.696))"),
        ("", "undecided", "it is not shown to do as well as the dense model (loss -0.512 (-1.72 to +0.696))"),
        ("", "missing", "a run is not recorded"),
        ("random mask", "better", "random mask does as well (loss -0.512 (-1.72 to +0.696))"),
        ("random mask", "undecided", "random mask is not shown to do worse (loss -0.512 (-1.72 to +0.696))"),
        ("random mask", "missing", "a run of random mask is not recorded"),
    ],
)
def test_why_there_is_no_ticket_is_said_of_each_level(arm, case, why):
    found = Verdict("no ticket", why_not={0.4: WhyNot(arm, compared(case)), 0.16: WhyNot("", compared("missing"))})
    assert sentences("verdict", model="a", found=found) == f"**a: no ticket.** With 40% left {why}; with 16% left a run is not recorded."


@pytest.mark.parametrize(
    ("obstacle", "why"),
    [
        ("only dense", "Nothing is recorded but the dense model."),
        ("one seed", "An interval needs at least two seeds."),
        ("no dense loss", "A dense run has no finite loss."),
    ],
)
def test_what_keeps_a_verdict_from_being_found_is_said(obstacle, why):
    assert sentences("verdict", model="a", found=Verdict("not decided", obstacle=obstacle)) == f"**a: not decided.** {why}"


def test_what_a_verdict_means():
    said = sentences("verdict_meaning", margin=MARGIN)
    assert said.startswith("*Ticket*: at some level, the loss is at most 1% above that of the better dense model, and all three controls")
    assert said.endswith("or for the four comparisons before *no ticket* is.")


def test_how_the_ticket_procedure_was_run():
    records = procedure_of("a", {"dense": [2.0], "ticket": [2.0]}, [0.0])
    schedule = (
        "Each run: 100 steps of 2 windows of 16 tokens, AdamW, rewound to step 5. Each round prunes 60% of what is left in the linear layers"
        " inside the blocks, the smallest of all layers together."
    )

    def said(records, notebook=""):
        return sentences("tickets", found=ImpResults(records), asked=records[0].request, minutes=0.3, notebook=notebook)

    assert (
        said(records, " (here)") == f"{schedule} The peak learning rate is 0.01. 3 runs, 1 seed, 0.300 minutes of computing in all (here)."
    )
    worse = ticket_of("a", "dense", 0, 0, 3.0)
    worse.request, worse.result.checkpoint_loss = worse.request.model_copy(update={"learning_rate": 0.02}), 1.5
    for record in records:
        record.result.checkpoint_loss = 1.5
    assert said([*records, worse]) == (
        f"{schedule} The peak learning rate is 0.01 for a: the best of 0.01, 0.02 for the dense model of the first seed, on training"
        " text that no run is trained on. a might do better outside this range. Held-out loss of the dense models, and of the"
        " checkpoints' own weights: a 2.00 (1.50). 3 runs and 1 more to choose the rates, 1 seed, 0.300 minutes of computing in all."
    )
    layerwise = records[0].request.model_copy(update={"scope": "layer", "rewind": 0})
    assert "rewound to the initialisation. Each round" in sentences("schedule", asked=layerwise)
    assert sentences("schedule", asked=layerwise).endswith("inside the blocks, each layer's smallest.")


@pytest.mark.parametrize(("rho", "p", "answer"), [(1.0, 0.02, "Yes"), (-1.0, 0.02, "No, the contrary"), (0.5, 0.4, "Not decided")])
def test_whether_one_shot_pruning_tells_who_has_the_best_ticket(rho, p, answer):
    assert sentences("one_shot_vs_imp", found=RankAgreement(5, 0.16, rho, p), fewest=5) == (
        f"{answer}: one ranking is by how sparse the trained model can be made in one shot, the other by how little the ticket loses with 16%"
        f" left. Their rank correlation is {rho:+.2f} over 5 architectures (p = {p:.2f})."
    )
    for models, said in ((1, "one has"), (3, "3 have")):
        assert sentences("one_shot_vs_imp", found=RankAgreement(models), fewest=5) == (
            f"Cannot be decided with fewer than 5 architectures that have both scores; here {said}."
        )


def test_lists_read_as_people_write_them():
    assert [listed(["a"]), listed(["a", "b"]), listed(["a", "b", "c"], "or")] == ["a", "a and b", "a, b or c"]
    assert [ways(["a", "b"]), ways(list("abcde"))] == ["a, b", "5 ways"]
    assert [from_to([0.5]), from_to([0.5, 0.6]), from_to([0.5, 0.6, 0.7])] == ["at 50%", "at 50% and 60%", "from 50% to 70%"]


def test_a_ratio_near_one_shows_on_which_side_it_lies():
    assert [multiple(value) for value in (0.9975, 1.0029, 1.055, 1.2, 12.0, math.inf)] == ["0.998", "1.003", "1.055", "1.20", "12.0", "∞"]


def test_by_which_way_of_pruning_a_level_is_passed_latest():
    found = [Latest("5% more", "alps", ["admm"], 3, True), Latest("twice", "alps", [], 3, True)]
    assert sentences("latest", found=found) == (
        "Before bits cost 5% more, most weights can go by alps; admm cannot be told apart from it. Before bits double, most weights can go by"
        " alps; all others are told apart from it."
    )
    few = sentences("latest", found=[Latest("twice", "alps", ["admm"], 1, False)])
    assert few == "Before bits double, most weights can go by alps, with too few windows to tell ways of pruning apart."
    assert sentences("latest", found=[Latest("twice", "alps", [], 0, True)]) == "Before bits double, most weights can go by alps."
