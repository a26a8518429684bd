"""Numbers to sentences. Each takes the data frame of ``tables.frame`` and says what it carries, or that it carries nothing."""

import itertools
import math
import random

import pandas as pd

from lottery.figures import CLIFF, cliff, lines
from lottery.tables import number, percent

STEADY = 1.15  # tokens per second may differ by this factor over sparsity before the timing itself is in doubt
_EXACT = 8  # up to so many models all orders are tried


def keeps_working(data: pd.DataFrame) -> pd.Series:
    """Whether a variant still works: its perplexity is at most twice the dense model's, and its text reads like language."""
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


def ranking(data: pd.DataFrame) -> pd.DataFrame:
    """Models from the best ticket down: ``survives`` (highest sparsity up to which all variants work), then bits lost there.

    Only models that were measured at every sparsity that occurs: an unmeasured one is neither survived nor lost.
    Of models that survive equally far, the one that loses fewer bits per byte at that sparsity is better; where none survives,
    the bits lost at the lowest sparsity decide.
    """
    rows = []
    for label, points in lines(data).items():
        pruned = comparable(points)
        if pruned.empty or set(pruned["sparsity"]) != set(levels(data)):
            continue
        works = keeps_working(pruned)
        survives = max(pruned["sparsity"][works.cummin().astype(bool)], default=0.0)
        at = pruned[pruned["sparsity"] == (survives or pruned["sparsity"].min())].iloc[0]
        rows.append(
            {
                "model": label,
                "survives": survives,
                "lost_bits": at["lost_bits"],
                "factor": at["factor"],
                "perplexity": at["perplexity"],
                "at": at["sparsity"],
            }
        )
    columns = ["model", "survives", "lost_bits", "factor", "perplexity", "at"]
    return pd.DataFrame(rows, columns=columns).sort_values(["survives", "lost_bits"], ascending=[False, True], ignore_index=True)


def who_has_the_best_ticket(data: pd.DataFrame) -> str:
    ranks = ranking(data)
    if ranks.empty:
        return "No model has been measured both dense and at every sparsity, so nothing can be compared."
    best = ranks.iloc[0]
    if len(ranks) == 1:
        first = f"Only **{best['model']}** can be judged so far."
    elif best["survives"]:
        first = (
            f"**{best['model']}** has the best ticket: at {percent(best['at'])} its perplexity is {number(best['perplexity'])},"
            f" {number(best['factor'])} times the dense model's, and its text still reads like language."
        )
    else:
        first = (
            f"No model keeps working even at {percent(best['at'])}; the least is lost by **{best['model']}**, whose perplexity"
            f" becomes {number(best['factor'])} times the dense model's."
        )
    if len(ranks) > 1 and best["survives"]:
        second = ranks.iloc[1]
        if second["survives"] == best["survives"]:
            first += (
                f" Next is {second['model']}: it loses {number(second['lost_bits'])} bits per byte there,"
                f" {best['model']} {number(best['lost_bits'])}."
            )
        elif second["survives"]:
            first += f" Next is {second['model']}, which keeps working up to {percent(second['survives'])}."
        else:
            first += " No other model keeps working at any measured sparsity."
    left_out = [label for label in lines(data) if label not in set(ranks["model"])]
    if left_out:
        first += f" Not compared, because a measurement is missing: {', '.join(left_out)}."
    return first + " " + who_survives(data)


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
        if len(points) < 2 or points.iloc[0]["method"] != "dense":
            continue
        at = cliff(points)
        if at is None:
            none.append(label)
            continue
        before, after = points.iloc[at], points.iloc[at + 1]
        times = after["perplexity"] / before["perplexity"]
        said.append(f"{label} between {percent(before['sparsity'])} and {percent(after['sparsity'])} (perplexity × {number(times)})")
    if not said and not none:
        return "No model has a dense and a pruned measurement, so no cliff can be seen."
    text = f"The first step in which perplexity more than doubles: {'; '.join(said)}." if said else ""
    if none:
        text += f" No cliff within the measured range: {', '.join(none)}."
    return text.strip() + " The cliff is known only as finely as sparsity was sampled."


def does_any_degrade_gracefully(data: pd.DataFrame) -> str:
    """Whether any model has no cliff; else whose largest step is the smallest."""
    steps = {}
    for label, points in lines(data).items():
        values = list(points["perplexity"])
        if len(values) > 1 and points.iloc[0]["method"] == "dense":
            ratios = [b / a if math.isfinite(a) and math.isfinite(b) else math.inf for a, b in itertools.pairwise(values)]
            worst = max(range(len(ratios)), key=ratios.__getitem__)
            steps[label] = (ratios[worst], points.iloc[worst]["sparsity"], points.iloc[worst + 1]["sparsity"])
    if not steps:
        return "No model has a dense and a pruned measurement."
    gentle = {label: step for label, step in steps.items() if step[0] <= CLIFF}
    if gentle:
        who = ", ".join(f"{label} (largest step × {number(step[0])})" for label, step in gentle.items())
        return f"Yes: {who}; perplexity never more than doubles from one measured sparsity to the next."
    label, (ratio, low, high) = min(steps.items(), key=lambda item: item[1][0])
    return (
        f"No: every model has a step in which its perplexity more than doubles. The gentlest is {label}, whose largest step is"
        f" × {number(ratio)}, between {percent(low)} and {percent(high)}."
    )


def what_zeros_save(data: pd.DataFrame) -> str:
    """Speed and memory over sparsity: flat, because zeros in a dense tensor are stored and multiplied like any other number."""
    claim = "Zeros in dense tensors save neither time nor memory, so both figures should be flat over sparsity."
    spread_speed, spread_memory = {}, {}
    for model, rows in data.groupby("model", sort=False):
        if len(rows) > 1:
            spread_speed[model] = rows["tokens_per_second"].max() / rows["tokens_per_second"].min()
            spread_memory[model] = rows["memory"].max() / rows["memory"].min()
    if not spread_speed:
        return claim
    fastest, largest = max(spread_speed, key=spread_speed.get), max(spread_memory, key=spread_memory.get)
    text = (
        f"{claim} Measured: from the slowest to the fastest variant of one model, tokens per second differ by at most"
        f" a factor of {spread_speed[fastest]:.2f} ({fastest}) and memory by at most a factor of {spread_memory[largest]:.2f} ({largest})."
    )
    if spread_speed[fastest] > STEADY:
        text += (
            " That is more than chance should give: the machine was busy or changed its pace."
            " Run it again before reading anything into speed."
        )
    return text


def what_does_not_compare(data: pd.DataFrame) -> str:
    """Names models whose variants were measured on several devices or in several dtypes; empty where there is none."""
    mixed = [str(model) for model, rows in data.groupby("model", sort=False) if len(rows[["device", "dtype"]].drop_duplicates()) > 1]
    if not mixed:
        return ""
    return (
        f"**Not one measurement.** The variants of {', '.join(mixed)} were measured on different devices or in different dtypes:"
        " their speeds do not compare, and their perplexities only roughly. Remove the records and run them on one device."
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


def do_methods_agree(data: pd.DataFrame) -> str:
    """Whether the best ticket is the same model whichever way it is looked for, or whether magnitude is only a bad way to look.

    Random pruning looks for nothing: it is the control, and has no say.
    """
    best = {}
    for method in methods(data[data["base_method"] != "random"]):
        ranks = ranking(judged_by(data, method))
        if len(ranks) > 1:
            best[method] = ranks.iloc[0]["model"]
    if len(best) < 2:
        return ""
    if len(set(best.values())) == 1:
        return f"All {len(best)} ways of pruning find the best ticket in the same model, {next(iter(best.values()))}."
    groups = {model: [method for method, found in best.items() if found == model] for model in dict.fromkeys(best.values())}
    said = "; ".join(f"{model} by {', '.join(found)}" for model, found in groups.items())
    return f"The best ticket depends on how it is looked for: {said}."
