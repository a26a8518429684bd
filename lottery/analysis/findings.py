"""Numbers to sentences. Each function takes the data frame of ``frame.frame`` and says what it shows, or that it shows nothing."""

import itertools
import math

import numpy as np
import pandas as pd
from scipy import stats

from lottery.analysis.frame import lines
from lottery.common.format import number, percent
from lottery.evaluation import perplexity
from lottery.experiments.records import Record
from lottery.experiments.threshold import COST_LEVELS, Crossing, crossing, significantly_different, span

KEEPS = 1.25  # times the dense model's bits per byte: up to there, and with coherent texts, a variant keeps working
FEWEST_MODELS = 5  # with fewer, no order of models is rarer than 1 in 20, so that nothing can be decided
METHODS_NAMED = 4  # more names of methods than that nobody reads


def keeps_working(data: pd.DataFrame) -> pd.Series:
    """Return whether each variant still works: its bits per byte are at most a quarter above the dense model's, its texts coherent."""
    return (data["bits_factor"] <= KEEPS) & data["coherent"].astype(bool)


def levels(data: pd.DataFrame) -> list[float]:
    return sorted(data.loc[data["method"] != "dense", "sparsity"].unique())


def methods(data: pd.DataFrame) -> list[str]:
    """Return the ways of pruning that occur, in the order in which they were asked for."""
    return list(data.loc[data["method"] != "dense", "method"].unique())


def judged_by(data: pd.DataFrame, method: str | None = None) -> pd.DataFrame:
    """Return the dense models and one way of pruning, by which models are compared: the first that was asked for unless named."""
    return data[data["method"].isin(["dense", method or next(iter(methods(data)), "dense")])]


def comparable(data: pd.DataFrame) -> pd.DataFrame:
    """Return the pruned variants whose dense model was measured too."""
    return data[(data["method"] != "dense") & data["lost_bits"].notna()]


Scores = dict[str, dict[str, Crossing]]  # model: level of ``threshold.COST_LEVELS``: where its bits per byte pass it


def scores(records: list[Record], method: str) -> Scores:
    """Return the ticket scores of every model by one way of pruning."""
    found = {}
    for model in dict.fromkeys(record.model for record in records):
        points = [r for r in records if r.model == model and r.request.variant.label in ("dense", method)]
        points.sort(key=lambda record: record.request.sparsity)
        crossings = {name: crossing(points, level) for name, level in COST_LEVELS.items()}
        if all(crossings.values()):
            found[model] = crossings
    return found


def ranking(data: pd.DataFrame, scores: Scores) -> pd.DataFrame:
    """Rank the models, the best ticket first.

    The first criterion is the sparsity at which bits per byte are up by 5%, the second the one at which they have doubled, the third the
    bits lost at the highest measured sparsity. Neighbours may not be told apart: ``significantly_different`` says.

    Only models that were measured at every sparsity that occurs are ranked: an unmeasured one is neither survived nor lost.
    """
    rows = []
    for model, points in lines(data).items():
        pruned = comparable(points)
        if pruned.empty or set(pruned["sparsity"]) != set(levels(data)) or model not in scores:
            continue
        five, twice = (scores[model][name].at for name in COST_LEVELS)
        rows.append({"model": model, "five": five, "twice": twice, "lost_bits": pruned.iloc[-1]["lost_bits"]})
    ranks = pd.DataFrame(rows, columns=["model", "five", "twice", "lost_bits"])
    return ranks.sort_values(["five", "twice", "lost_bits"], ascending=[False, False, True], ignore_index=True)


def who_has_the_best_ticket(data: pd.DataFrame, scores: Scores) -> str:
    ranks = ranking(data, scores)
    if ranks.empty:
        return "No model has been measured both dense and at every sparsity, so nothing can be compared."
    best, *others = ranks["model"]
    rivals = [model for model in others if not significantly_different(scores[best]["5% more"], scores[model]["5% more"])]
    if data["model"].nunique() == 1:
        text = f"**{best}** is the only model measured: {_loses(scores[best])}."
    elif not others:
        text = f"Only **{best}** can be judged so far: {_loses(scores[best])}."
    elif not rivals:
        text = f"**{best}** has the best ticket: {_loses(scores[best])}. Next is {others[0]}: {_loses(scores[others[0]])}."
    else:
        doubt = "the two cannot be told apart" if len(rivals) == 1 else f"the first {len(rivals) + 1} cannot be told apart"
        if not scores[best]["5% more"].has_interval:
            doubt = "there are too few windows to tell models apart"
        said = "; ".join(f"{model} {_at(scores[model]['5% more'])}" for model in [best, *rivals])
        text = f"**No model has clearly the best ticket**, {doubt}. Text costs 5% more bits per byte at these sparsities: {said}."
    left_out = [label for label in lines(data) if label not in set(ranks["model"])]
    if left_out:
        text += f" Not compared, because a measurement is missing or the dense model's is not finite: {', '.join(left_out)}."
    return text + " " + who_survives(data)


def _loses(crossings: dict[str, Crossing]) -> str:
    """Say what a model's linear layers can lose: what is known of both levels."""
    five, twice = (crossings[name] for name in COST_LEVELS)
    if math.isinf(five.above):
        return f"even at {percent(five.below)} sparsity its text costs less than 5% more bits per byte"
    return f"its text costs 5% more bits per byte {_at(five)} sparsity, twice as many {_at(twice)}"


def _at(score: Crossing) -> str:
    text = span(score)
    return text if text.startswith(("between", "above")) else f"at {text}"


def who_survives(data: pd.DataFrame) -> str:
    """Say, for each sparsity, which models keep working there."""
    pruned = comparable(data)
    said = []
    if data["model"].nunique() == 1 and len(pruned):
        alive = set(pruned["sparsity"][keeps_working(pruned)])
        good, bad = ([percent(level) for level in levels(data) if (level in alive) == wanted] for wanted in (True, False))
        if not good:
            return f"It does not keep working at {_listed(bad, 'or')}."
        return f"It keeps working at {_listed(good, 'and')}" + (f", not at {_listed(bad, 'or')}." if bad else ".")
    for level in levels(data):
        at = pruned[pruned["sparsity"] == level]
        alive = list(dict.fromkeys(at["model"][keeps_working(at)]))
        everyone = at["model"].nunique()
        said.append(f"none of {everyone}" if not alive else f"all {everyone}" if len(alive) == everyone > 1 else ", ".join(alive))
    runs = [
        (who, [level for level, _ in run]) for who, run in itertools.groupby(zip(levels(data), said, strict=True), lambda pair: pair[1])
    ]
    together = "; ".join(f"{_from_to(run)} {who}" for who, run in runs)
    return f"Of the models measured, these keep working: {together}." if said else ""


def _from_to(run: list[float]) -> str:
    """Name neighbouring sparsities of which the same is said."""
    if len(run) > 2:
        return f"from {percent(run[0])} to {percent(run[-1])}"
    return f"at {_listed([percent(level) for level in run], 'and')}"


def _listed(names: list[str], last: str) -> str:
    return f" {last} ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def do_bigger_models_prune_better(data: pd.DataFrame) -> str:
    """Correlate the ranks of size and bits lost at each sparsity, and give the share of orders as extreme by chance."""
    pruned = comparable(data)
    said, decided, most = [], [], 0
    for level in levels(data):
        at = pruned[(pruned["sparsity"] == level)].drop_duplicates("model")
        most = max(most, len(at))
        if len(at) < 3:
            continue
        rho, chance = rank_correlation(list(at["parameters"]), list(-at["lost_bits"]))
        said.append(f"{rho:+.2f} at {percent(level)} ({len(at)} models" + (f", p = {chance:.2f})" if len(at) >= FEWEST_MODELS else ")"))
        if chance <= 0.05:
            decided.append((rho > 0, percent(level)))
    if data["model"].nunique() == 1:
        return "One model cannot say."
    if not said:
        return "Cannot be decided: fewer than three models can be compared at any sparsity."
    verdicts = []
    if better := [level for up, level in decided if up]:
        verdicts.append(f"yes at {', '.join(better)}")
    if worse := [level for up, level in decided if not up]:
        verdicts.append(f"the contrary at {', '.join(worse)}")
    verdict = "; ".join(verdicts) or "not decided: such a correlation could be chance"
    if most < FEWEST_MODELS:
        verdict = "cannot be decided with fewer than five models"
    return f"{verdict[0].upper()}{verdict[1:]}. Rank correlation of size with how little is lost (bits per byte): {'; '.join(said)}."


def rank_correlation(x: list[float], y: list[float]) -> tuple[float, float]:
    """Return Spearman's rank correlation and its two-sided permutation p-value (``scipy.stats.permutation_test``).

    The p-value is exact up to seven pairs, else from 9,999 orders drawn with a fixed seed.
    """
    if len(set(x)) == 1 or len(set(y)) == 1:
        return 0.0, 1.0
    ranks = stats.rankdata(x), stats.rankdata(y)

    def statistic(one, axis=-1):
        return stats.pearsonr(one, np.broadcast_to(ranks[1], one.shape), axis=axis).statistic

    test = stats.permutation_test((ranks[0],), statistic, permutation_type="pairings", vectorized=True, n_resamples=9_999, rng=0)
    return float(test.statistic), float(test.pvalue)


def where_is_the_cliff(data: pd.DataFrame, scores: Scores) -> str:
    """Say, for each model, where text goes from 5% more to twice the cost."""
    if not scores:
        return "No model has a finite dense and a pruned measurement, so no cliff can be seen."
    said = [f"{model} from {_known(scores[model]['5% more'])} to {_known(scores[model]['twice'])}" for model in _of(data, scores)]
    return (
        f"Where bits per byte go from 5% more to twice the dense model's: {'; '.join(said)}. A cliff between two measured sparsities is"
        " known no better than they are apart."
    )


def _known(score: Crossing) -> str:
    return span(score, interval=False)


def _of(data: pd.DataFrame, scores: Scores) -> list[str]:
    return [model for model in data["model"].unique() if model in scores]


def does_any_degrade_gracefully(data: pd.DataFrame, scores: Scores) -> str:
    """Say whether any model never doubles its bits; else how many points of sparsity the gentlest takes from 5% more to twice."""
    models = list(ranking(data, scores)["model"])
    if not models:
        return "No model has been measured both dense and at every sparsity."
    if gentle := [model for model in models if math.isinf(scores[model]["twice"].above)]:
        where = ", ".join(f"{model} (up to {percent(scores[model]['twice'].below)})" for model in gentle)
        return f"Yes: {where}; bits per byte never double within what was measured."
    steps = {model: _width(*(scores[model][name] for name in COST_LEVELS)) for model in models}
    model, (low, high) = max(steps.items(), key=lambda item: sum(item[1]))
    points = f"{100 * low:.0f}" if round(100 * low) == round(100 * high) else f"{100 * low:.0f} to {100 * high:.0f}"
    return (
        "No: every model doubles its bits per byte within what was measured. From 5% more to twice as many "
        + (f"{model} takes longest, {points}" if len(models) > 1 else f"{model} takes {points}")
        + " points of sparsity."
    )


def _width(five: Crossing, twice: Crossing) -> tuple[float, float]:
    """Return the least and the most points of sparsity that may lie between two crossings."""
    return max(0.0, twice.below - five.above), twice.above - five.below


def which_method_keeps_most(data: pd.DataFrame, records: list[Record]) -> str:
    """Say which way of pruning loses least at each sparsity, and which ways cannot be told apart from it.

    Only models for which all ways were measured count. Differences are paired, window by window.
    """
    said, fewest = [], math.inf
    for level in levels(data):
        grid = lost_by_method(data, level)
        if grid.empty or len(grid.columns) < 2:
            continue
        means = grid.mean().sort_values(kind="stable")  # of equal ones the first that was asked for
        best, worst = means.index[0], means.index[-1]
        wins = int((grid.idxmin(axis=1) == best).sum())
        lost, windows = _resampled_losses(records, level, grid)
        fewest = min(fewest, windows)
        value, rivals = number(means[best]), []
        if lost:
            low, high = perplexity.interval(lost[best], windows)
            value += f" ({number(low)} to {number(high)})"
            with np.errstate(invalid="ignore"):  # infinity less infinity
                rivals = [way for way in means.index[1:] if not perplexity.interval(lost[way] - lost[best], windows)[0] > 0]
        where = f" in the mean of {len(grid)} models (least of all in {wins})" if len(grid) > 1 else ""
        doubt = f"; {_listed(rivals, 'and')} cannot be told apart from it" if rivals else ""
        said.append(f"At {percent(level)} {best} loses least, {value} bits per byte{where}, {worst} most, {number(means[worst])}{doubt}.")
    if not said:
        return "No sparsity has two ways of pruning measured on the same models, so they cannot be compared."
    return " ".join(said + ["There are too few windows to tell ways of pruning apart."] * (fewest < perplexity.MIN_WINDOWS))


def _resampled_losses(records: list[Record], level: float, grid: pd.DataFrame) -> tuple[dict[str, np.ndarray], int]:
    """Return the bits per byte that each way of pruning loses at a sparsity, for each resampled text.

    Returns:
        The losses [draws] in the mean of the models of ``grid``, nothing where there are too few windows; and the number of windows, the
        smallest of the models.
    """
    results = {(r.model, r.request.variant.label, r.request.sparsity): r.result for r in records}
    dense = {model: results[model, "dense", 0.0] for model in grid.index}
    windows = min(len(result.window_nll) for result in dense.values())
    if windows < perplexity.MIN_WINDOWS:
        return {}, windows
    lost = dict.fromkeys(grid.columns, 0.0)
    for model, result in dense.items():
        times = perplexity.draws(model, len(result.window_nll))
        size = perplexity.resampled(result.window_bytes, times)
        for way in lost:
            more = perplexity.resampled(results[model, way, level].window_nll, times) - perplexity.resampled(result.window_nll, times)
            lost[way] = lost[way] + perplexity.bits_per_byte(more, size) / len(dense)
    return lost, windows


def lost_by_method(data: pd.DataFrame, level: float) -> pd.DataFrame:
    """Return bits per byte lost at a sparsity, a row a model and a column a way of pruning; only models that were pruned in every way."""
    at = comparable(data)
    grid = at[at["sparsity"] == level].pivot(index="model", columns="method", values="lost_bits")
    return grid.reindex(columns=[method for method in methods(data) if method in grid.columns]).dropna()


def do_methods_agree(data: pd.DataFrame, records: list[Record]) -> str:
    """Say whether the best ticket is the same model whichever way it is looked for, or whether magnitude is only a bad way to look.

    A way has a say where its best model is told apart from the next. Random pruning looks for nothing: it is the control.
    """
    best, undecided = {}, []
    for method in methods(data[data["base_method"] != "random"]):
        found = scores(records, method)
        ranks = ranking(judged_by(data, method), found)
        if len(ranks) < 2:
            continue
        first, second = (found[model]["5% more"] for model in ranks["model"][:2])
        if significantly_different(first, second):
            best[method] = ranks.iloc[0]["model"]
        else:
            undecided.append(method)
    if len(best) + len(undecided) < 2:
        return ""
    rest = f" By {_ways(undecided)} the best two cannot be told apart." if undecided else ""
    if len(best) < 2:
        return f"Whether the best ticket depends on how it is looked for is not decided.{rest}"
    if len(set(best.values())) == 1:
        return f"{len(best)} ways of pruning find the best ticket in the same model, {next(iter(best.values()))}.{rest}"
    groups = {model: [method for method, found in best.items() if found == model] for model in dict.fromkeys(best.values())}
    said = "; ".join(f"{model} by {_ways(found)}" for model, found in groups.items())
    return f"The best ticket depends on how it is looked for: {said}.{rest}"


def _ways(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= METHODS_NAMED else f"{len(names)} ways"
