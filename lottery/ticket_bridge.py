"""From tickets back to the study: does the ranking by one-shot prunability agree with the ranking by real tickets?"""

import math

import numpy as np
import pandas as pd

from lottery.findings import Scores, rank_correlation
from lottery.show import table
from lottery.tables import number, percent
from lottery.ticket_findings import Mean, Outcome, mean
from lottery.ticket_score import LEVELS, first_crossing

LEVEL = "5% more"


def scores(outcome: Outcome, arm: str = "ticket") -> dict[str, Mean]:
    """For each model the sparsity at which the loss of an arm is up by 5% on the dense one: infinite beyond the last level.

    It is that of the mean loss over seeds; its interval is that of the seeds' own.
    """
    found = {}
    for model in outcome.models if outcome.levels else []:
        columns = [outcome.by_seed(model, arm if level else "dense", level) for level in (0, *outcome.levels)]
        rows = pd.concat(columns, axis=1).dropna().to_numpy()
        if not len(rows) or not np.isfinite(rows[:, 0]).all():
            continue
        sparsities = np.array([0.0, *(1 - outcome.left(level) for level in outcome.levels)])
        at, _ = first_crossing(sparsities, rows, LEVELS[LEVEL])
        middle, _ = first_crossing(sparsities, rows.sum(0, keepdims=True), LEVELS[LEVEL])
        found[model] = Mean(float(middle[0]), *mean(at)[1:])
    return found


def both_scores(outcome: Outcome, one_shot: Scores) -> pd.DataFrame:
    """A row a model that has both: the sparsity at which one-shot pruning costs 5%, that at which a ticket does, and the ticket's loss at
    the last level as a multiple of the dense one's, which decides where two tickets cost less than 5% at every level."""
    tickets, rows = scores(outcome), []
    for model in outcome.models:
        if model in one_shot and model in tickets:
            dense, ticket = (mean(outcome.by_seed(model, *which)).value for which in (("dense", 0), ("ticket", outcome.levels[-1])))
            rows.append(
                {"model": model, "one_shot": one_shot[model][LEVEL].at, "ticket": tickets[model].value, "times_dense": ticket / dense}
            )
    return pd.DataFrame(rows, columns=["model", "one_shot", "ticket", "times_dense"])


def does_one_shot_tell(outcome: Outcome, one_shot: Scores) -> str:
    """Whether the ranking by one-shot prunability is that by real tickets."""
    both = both_scores(outcome, one_shot)
    if len(both) < 3:
        return f"Fewer than three architectures have both scores ({len(both)}), so the two rankings cannot be compared."
    order = sorted(set(zip(both["ticket"], -both["times_dense"], strict=True)))
    ranks = [order.index(score) for score in zip(both["ticket"], -both["times_dense"], strict=True)]
    rho, chance = rank_correlation(list(both["one_shot"]), ranks)
    verdict = "yes" if chance <= 0.05 and rho > 0 else "no, the contrary" if chance <= 0.05 else "not decided"
    return f"{verdict[0].upper()}{verdict[1:]}: the rank correlation over {len(both)} architectures is {rho:+.2f} (p = {chance:.2f})."


def told(outcome: Outcome, one_shot: Scores) -> str:
    """A row a model: the sparsity at a cost of 5%, pruned once after the study's long training, pruned once here, and as a ticket."""
    tickets, pruned = scores(outcome), scores(outcome, "pruned")
    times = dict(both_scores(outcome, one_shot)[["model", "times_dense"]].to_numpy())
    last = 1 - outcome.left(outcome.levels[-1]) if outcome.levels else 1.0
    rows = [
        {
            "Model": model,
            "One shot, study": _sparsity(one_shot[model][LEVEL].at, 1) if model in one_shot else "",
            "One shot, here": _sparsity(pruned[model].value, last) if model in pruned else "",
            "Ticket": _sparsity(tickets[model].value, last) if model in tickets else "",
            "Loss, last level": number(times[model]) if model in times else "",
            "Interval": _interval(tickets.get(model)),
        }
        for model in outcome.models
    ]
    caption = (
        "The sparsity at a cost of 5%: in bits per byte for the trained model of the study; in loss for the short training here, pruned"
        " once, or as a ticket, with its 95% interval over seeds. Between levels it is interpolated. Loss, last level: the ticket's, as a"
        " multiple of the dense model's."
    )
    return table(rows, right="|".join(list(rows[0])[1:]), caption=caption) if rows else ""


def _interval(score: Mean | None) -> str:
    return f"{percent(score.low)} to {percent(score.high)}" if score and math.isfinite(score.low) else ""


def _sparsity(value: float, last: float) -> str:
    if math.isnan(value):
        return ""
    return percent(value) if math.isfinite(value) else f"above {percent(last)}"
