"""One-shot pruning beside tickets, as a table."""

import math

import pandas as pd

from lottery.analysis.findings import Scores
from lottery.analysis.imp.one_shot import LEVEL, at_a_cost, both_scores
from lottery.analysis.imp.results import ImpResults
from lottery.common.format import percent
from lottery.report.markdown import table
from lottery.report.sections.imp import of_intervals
from lottery.report.sentences import span


def told(outcome: ImpResults, one_shot: Scores) -> str:
    """Return a row for each model: the sparsity at a cost of 5% in three ways, and what the ticket loses at the last level.

    The three are: pruned once after the study's long training, pruned once here, and as a ticket.
    """
    tickets, pruned = at_a_cost(outcome), at_a_cost(outcome, "pruned")
    both = both_scores(outcome, one_shot).set_index("model")
    last = outcome.left(outcome.levels[-1]) if outcome.levels else 0.0
    rows = [
        {
            "Model": model,
            "One shot, study": span(one_shot[model][LEVEL], interval=False) if model in one_shot else "",
            "One shot, here": _between(*pruned[model]) if model in pruned else "",
            "Ticket": _between(*tickets[model]) if model in tickets else "",
            f"Ticket's loss, {percent(last)} left": _loss(both.loc[model], outcome.seeds) if model in both.index else "",
        }
        for model in outcome.models
    ]
    caption = (
        "The sparsity at a cost of 5%: in bits per byte for the trained model of the study; in loss for the short training here, pruned"
        " once, or as a ticket, between two levels. Last, the ticket's loss as a multiple of the dense model's"
        f"{of_intervals(outcome.seeds)}."
    )
    return table(rows, caption)


def _between(below: float, above: float) -> str:
    if math.isinf(above):
        return f"above {percent(below)}"
    return f"{percent(below) if below else 'dense'} to {percent(above)}"


def _loss(row: pd.Series, seeds: int) -> str:
    return f"{row['times_dense']}" + (f", {row['seeds']} of {seeds} seeds" if row["seeds"] < seeds else "")
