"""From tickets back to the study: does the ranking by one-shot prunability agree with the ranking by real tickets?"""

import math

import numpy as np
import pandas as pd

from lottery.analysis.findings import Scores, rank_correlation
from lottery.analysis.imp_verdict import mean
from lottery.common.format import percent
from lottery.experiments.threshold import COST_LEVELS, last_crossing, span
from lottery.report.markdown import table
from lottery.report.sections.imp import ImpResults, of_intervals

LEVEL = "5% more"


def at_a_cost(outcome: ImpResults, arm: str = "ticket") -> dict[str, float]:
    """Return for each model the sparsity at which an arm's mean loss is 5% above the dense one; infinite beyond the last level."""
    found = {}
    for model in outcome.models if outcome.levels else []:
        columns = [outcome.by_seed(model, arm if level else outcome.baseline(model), level) for level in (0, *outcome.levels)]
        rows = pd.concat(columns, axis=1).dropna().to_numpy()
        if not len(rows) or not np.isfinite(rows[:, 0]).all():
            continue
        sparsities = np.array([0.0, *(1 - outcome.left(level) for level in outcome.levels)])
        found[model] = float(last_crossing(sparsities, rows.sum(0, keepdims=True), COST_LEVELS[LEVEL])[0][0])
    return found


def both_scores(outcome: ImpResults, one_shot: Scores) -> pd.DataFrame:
    """Return a row for each model that has both a one-shot score and a ticket.

    It holds the sparsity at which one-shot pruning costs 5%, where it is known closely, and what is lost by its ticket at the last level,
    as a multiple of the dense model's loss (a ``MeanCI``). The ticket's own 5% would not do: good tickets cost less than that at every
    level.
    """
    rows = []
    for model in outcome.models if outcome.levels else []:
        times = mean((outcome.by_seed(model, "ticket", outcome.levels[-1]) / outcome.by_seed(model, outcome.baseline(model), 0)).dropna())
        known = model in one_shot and (one_shot[model][LEVEL].is_number or math.isinf(one_shot[model][LEVEL].at))
        if known and not math.isnan(times.value):
            rows.append({"model": model, "one_shot": one_shot[model][LEVEL].at, "times_dense": times})
    return pd.DataFrame(rows, columns=["model", "one_shot", "times_dense"])


def does_one_shot_tell(outcome: ImpResults, one_shot: Scores) -> str:
    """Say whether the ranking by one-shot prunability is that by real tickets."""
    both = both_scores(outcome, one_shot)
    if len(both) < 3:
        return f"Fewer than three architectures have both scores ({len(both)}), so the two rankings cannot be compared."
    rho, chance = rank_correlation(list(both["one_shot"]), [-times.value for times in both["times_dense"]])
    verdict = "yes" if chance <= 0.05 and rho > 0 else "no, the contrary" if chance <= 0.05 else "not decided"
    return (
        f"{verdict[0].upper()}{verdict[1:]}: the rank correlation of how sparse a trained model can be made in one shot with how little its"
        f" architecture's ticket loses with {percent(outcome.left(outcome.levels[-1]))} left is {rho:+.2f} over {len(both)} architectures"
        f" (p = {chance:.2f})."
    )


def told(outcome: ImpResults, one_shot: Scores) -> str:
    """Return a row for each model: the sparsity at a cost of 5% in three ways, and what the ticket loses at the last level.

    The three are: pruned once after the study's long training, pruned once here, and as a ticket.
    """
    tickets, pruned = at_a_cost(outcome), at_a_cost(outcome, "pruned")
    times = dict(both_scores(outcome, one_shot)[["model", "times_dense"]].itertuples(index=False))
    last = outcome.left(outcome.levels[-1]) if outcome.levels else 0.0
    rows = [
        {
            "Model": model,
            "One shot, study": span(one_shot[model][LEVEL], interval=False) if model in one_shot else "",
            "One shot, here": _sparsity(pruned[model], 1 - last) if model in pruned else "",
            "Ticket": _sparsity(tickets[model], 1 - last) if model in tickets else "",
            f"Ticket's loss, {percent(last)} left": str(times.get(model, "")),
        }
        for model in outcome.models
    ]
    caption = (
        "The sparsity at a cost of 5%: in bits per byte for the trained model of the study; in loss for the short training here, pruned"
        " once, or as a ticket; between levels it is interpolated. Last, the ticket's loss as a multiple of the dense model's"
        f"{of_intervals(outcome.seeds)}."
    )
    return table(rows, right="|".join(list(rows[0])[1:]), caption=caption) if rows else ""


def _sparsity(value: float, last: float) -> str:
    if math.isnan(value):
        return ""
    return percent(value) if math.isfinite(value) else f"above {percent(last)}"
