"""Numbers to sentences. Each takes the data frame of ``frame.frame`` and says what it carries, or that it carries nothing."""

import itertools
import math
import random

import pandas as pd

from lottery.figures import CLIFF, cliff, lines
from lottery.records import Record
from lottery.tables import number, percent
from lottery.ticket_score import LEVELS, Crossing, crossing, told_apart

_EXACT = 8  # up to so many models all orders are tried


def keeps_working(data: pd.DataFrame) -> pd.Series:
    """Whether a variant still works: its perplexity is at most twice the dense model's, and its texts are coherent."""
    return (data["factor"] <= CLIFF) & data["coherent"].astype(bool)


def levels(data: pd.DataFrame) -> list[float]:
    return sorted(data.loc[data["method"] != "dense", "sparsity"].unique())


def methods(data: pd.DataFrame) -> list[str]:
    """The ways of pruning that occur, in the order in which they were asked for."""
    return list(data.loc[data["method"] != "dense", "method"].unique())


def judged_by(data: pd.DataFrame, method: str | None = None) -> pd.DataFrame:
    """The dense models and one way of pruning, the first that was asked for unless named: what models are compared by."""
    return data[data["method"].isin(["dense", method or next(iter(methods(data)), "dense")])]


def comparable(data: pd.DataFrame) -> pd.DataFrame:
    """The pruned variants whose dense model was measured too."""
    return data[(data["method"] != "dense") & data["lost_bits"].notna()]


Scores = dict[str, dict[str, Crossing]]  # model: level of ``ticket_score.LEVELS``: where its bits per byte pass it


def scores(records: list[Record], method: str) -> Scores:
    """The ticket scores of every model by one way of pruning."""
    found = {}
    for model in dict.fromkeys(record.model for record in records):
        points = [r for r in records if r.model == model and r.request.variant.label in ("dense", method)]
        points.sort(key=lambda record: record.request.sparsity)
        crossings = {name: crossing(points, level) for name, level in LEVELS.items()}
        if all(crossings.values()):
            found[model] = crossings
    return found


def ranking(data: pd.DataFrame, scores: Scores) -> pd.DataFrame:
    """Models from the best ticket down: by the sparsity at which bits per byte are up by 5%, then by that at which they have doubled,
    then by the bits lost at the highest measured sparsity.

    Only models that were measured at every sparsity that occurs: an unmeasured one is neither survived nor lost.
    """
    rows = []
    for model, points in lines(data).items():
        pruned = comparable(points)
        if pruned.empty or set(pruned["sparsity"]) != set(levels(data)) or model not in scores:
            continue
        five, twice = (scores[model][name].at for name in LEVELS)
        works = keeps_working(pruned)
        survives = max(pruned["sparsity"][works.cummin().astype(bool)], default=0.0)
        last = pruned.iloc[-1]
        rows.append({"model": model, "five": five, "twice": twice, "survives": survives, "lost_bits": last["lost_bits"]})
    columns = ["model", "five", "twice", "survives", "lost_bits"]
    ranks = pd.DataFrame(rows, columns=columns)
    return ranks.sort_values(["five", "twice", "lost_bits"], ascending=[False, False, True], ignore_index=True)


def who_has_the_best_ticket(data: pd.DataFrame, scores: Scores) -> str:
    ranks = ranking(data, scores)
    if ranks.empty:
        return "No model has been measured both dense and at every sparsity, so nothing can be compared."
    best = ranks.iloc[0]["model"]
    five, twice = (scores[best][name] for name in LEVELS)
    first = f"Only **{best}** can be judged so far" if len(ranks) == 1 else f"**{best}** has the best ticket"
    if math.isinf(five.at):
        first += f": even at {percent(five.after)} sparsity its text costs less than 5% more bits per byte."
    else:
        first += (
            f": its linear layers can lose {_share(five)} of their weights before its text costs 5% more bits per byte,"
            f" and {_share(twice)} before it costs twice as many."
        )
    if len(ranks) > 1:
        second = ranks.iloc[1]["model"]
        apart = told_apart(five, scores[second]["5% more"])
        told = {True: ".", False: "; the two cannot be told apart.", None: "; there are too few windows to tell the two apart."}[apart]
        first += f" Next is {second} with {_share(scores[second]['5% more'])} and {_share(scores[second]['twice'])}{told}"
    left_out = [label for label in lines(data) if label not in set(ranks["model"])]
    if left_out:
        first += f" Not compared, because a measurement is missing or the dense model's is not finite: {', '.join(left_out)}."
    return first + " " + who_survives(data)


def _share(score: Crossing) -> str:
    """A ticket score with its interval."""
    if math.isinf(score.at):
        return f"more than {percent(score.after)}"
    if not score.has_interval:
        return percent(score.at)
    high = f"{percent(score.high)}" if math.isfinite(score.high) else f"more than {percent(score.before)}"
    return f"{percent(score.at)} (95% interval {percent(score.low)} to {high})"


def who_survives(data: pd.DataFrame) -> str:
    """For each sparsity, who keeps working there."""
    pruned = comparable(data)
    said = []
    for level in levels(data):
        at = pruned[pruned["sparsity"] == level]
        alive = list(dict.fromkeys(at["model"][keeps_working(at)]))
        everyone = at["model"].nunique()
        who = "none" if not alive else f"all {everyone}" if len(alive) == everyone > 1 else ", ".join(alive)
        said.append(f"at {percent(level)} {who} of {everyone}" if not alive else f"at {percent(level)} {who}")
    return f"Of the models measured, these keep working: {'; '.join(said)}." if said else ""


def do_bigger_models_prune_better(data: pd.DataFrame) -> str:
    """Rank correlation of size with bits lost at each sparsity, with the share of orders that would be as extreme by chance."""
    pruned, said, decided = comparable(data), [], []
    for level in levels(data):
        at = pruned[pruned["sparsity"] == level].drop_duplicates("model")
        if len(at) < 3:
            continue
        rho, chance = rank_correlation(list(at["parameters"]), list(-at["lost_bits"]))
        said.append(f"{rho:+.2f} at {percent(level)} ({len(at)} models, p = {chance:.2f})")
        if chance <= 0.05:
            decided.append((rho > 0, percent(level)))
    if not said:
        return "Fewer than three models can be compared at any sparsity, so size and loss cannot be related."
    verdicts = []
    if better := [level for up, level in decided if up]:
        verdicts.append(f"yes at {', '.join(better)}")
    if worse := [level for up, level in decided if not up]:
        verdicts.append(f"the contrary at {', '.join(worse)}")
    verdict = "; ".join(verdicts) if verdicts else "not decided: with so few models, orders like these come about by chance"
    return f"{verdict[0].upper()}{verdict[1:]}. Rank correlation of size with how little is lost (bits per byte): {'; '.join(said)}."


def rank_correlation(x: list[float], y: list[float]) -> tuple[float, float]:
    """Spearman's rank correlation and its two-sided permutation p-value, exact up to eight pairs, else from 10,000 shuffles."""
    ranks_x, ranks_y = pd.Series(x).rank(), pd.Series(y).rank()
    if ranks_x.nunique() == 1 or ranks_y.nunique() == 1:
        return 0.0, 1.0
    centred = list(ranks_x - ranks_x.mean())
    target = list(ranks_y - ranks_y.mean())
    scale = math.sqrt(sum(v * v for v in centred) * sum(v * v for v in target))
    rho = sum(a * b for a, b in zip(centred, target, strict=True)) / scale
    if len(x) <= _EXACT:
        orders = itertools.permutations(target)
    else:
        shuffled = random.Random(0)
        orders = (shuffled.sample(target, len(target)) for _ in range(10_000))
    extreme = [abs(sum(a * b for a, b in zip(centred, order, strict=True)) / scale) >= abs(rho) - 1e-12 for order in orders]
    return rho, sum(extreme) / len(extreme)


def where_is_the_cliff(data: pd.DataFrame) -> str:
    said, none = [], []
    for label, points in lines(data).items():
        if not _has_begun(points):
            continue
        at = cliff(points)
        if at is None:
            none.append(label)
            continue
        before, after = points.iloc[at], points.iloc[at + 1]
        times = after["perplexity"] / before["perplexity"]
        said.append(f"{label} between {percent(before['sparsity'])} and {percent(after['sparsity'])} (perplexity × {number(times)})")
    if not said and not none:
        return "No model has a finite dense and a pruned measurement, so no cliff can be seen."
    text = f"The first step in which perplexity more than doubles: {'; '.join(said)}." if said else ""
    if none:
        text += f" No cliff within the measured range: {', '.join(none)}."
    return text.strip() + " The cliff is known only as finely as sparsity was sampled."


def _has_begun(points: pd.DataFrame) -> bool:
    """Whether a line has a finite dense beginning, and anything after it."""
    return len(points) > 1 and points.iloc[0]["method"] == "dense" and math.isfinite(points.iloc[0]["perplexity"])


def does_any_degrade_gracefully(data: pd.DataFrame) -> str:
    """Whether any model has no cliff; else whose largest step is the smallest. Only models measured at every sparsity that occurs."""
    steps = {}
    for label, points in lines(data).items():
        values = list(points["perplexity"])
        if _has_begun(points) and set(levels(data)) <= set(points["sparsity"]):
            ratios = [b / a if math.isfinite(a) and math.isfinite(b) else math.inf for a, b in itertools.pairwise(values)]
            worst = max(range(len(ratios)), key=ratios.__getitem__)
            steps[label] = (ratios[worst], points.iloc[worst]["sparsity"], points.iloc[worst + 1]["sparsity"])
    if not steps:
        return "No model has a finite dense measurement and one at every sparsity."
    gentle = {label: step for label, step in steps.items() if step[0] <= CLIFF}
    if gentle:
        who = ", ".join(f"{label} (largest step × {number(step[0])})" for label, step in gentle.items())
        return f"Yes: {who}; perplexity never more than doubles from one measured sparsity to the next."
    label, (ratio, low, high) = min(steps.items(), key=lambda item: item[1][0])
    return (
        f"No: every model has a step in which its perplexity more than doubles. The gentlest is {label}, whose largest step is"
        f" × {number(ratio)}, between {percent(low)} and {percent(high)}."
    )


def which_method_keeps_most(data: pd.DataFrame) -> str:
    """Which way of pruning loses least at each sparsity, over the models for which all ways were measured."""
    said = []
    for level in levels(data):
        grid = lost_by_method(data, level)
        if grid.empty or len(grid.columns) < 2:
            continue
        means = grid.mean()
        best, worst = means.idxmin(), means.idxmax()
        wins, models = int((grid.idxmin(axis=1) == best).sum()), f"{len(grid)} model{'s' if len(grid) > 1 else ''}"
        said.append(
            f"at {percent(level)} {best} loses least, {number(means[best])} bits per byte in the mean of {models}"
            f" (least of all in {wins}), {worst} most, {number(means[worst])}"
        )
    if not said:
        return "No sparsity has two ways of pruning measured on the same models, so they cannot be compared."
    text = "; ".join(said)
    return f"{text[0].upper()}{text[1:]}."


def lost_by_method(data: pd.DataFrame, level: float) -> pd.DataFrame:
    """Bits per byte lost at a sparsity, a row a model and a column a way of pruning; only models that were pruned in every way."""
    at = comparable(data)
    grid = at[at["sparsity"] == level].pivot(index="model", columns="method", values="lost_bits")
    return grid.reindex(columns=[method for method in methods(data) if method in grid.columns]).dropna()


def do_methods_agree(data: pd.DataFrame, records: list[Record]) -> str:
    """Whether the best ticket is the same model whichever way it is looked for, or whether magnitude is only a bad way to look.

    Random pruning looks for nothing: it is the control, and has no say.
    """
    best = {}
    for method in methods(data[data["base_method"] != "random"]):
        ranks = ranking(judged_by(data, method), scores(records, method))
        if len(ranks) > 1:
            best[method] = ranks.iloc[0]["model"]
    if len(best) < 2:
        return ""
    if len(set(best.values())) == 1:
        return f"All {len(best)} ways of pruning find the best ticket in the same model, {next(iter(best.values()))}."
    groups = {model: [method for method, found in best.items() if found == model] for model in dict.fromkeys(best.values())}
    few = 4  # more names than that nobody reads
    said = "; ".join(
        f"{model} by {', '.join(found) if len(found) <= few else f'{len(found)} of {len(best)} ways'}" for model, found in groups.items()
    )
    return f"The best ticket depends on how it is looked for: {said}."
