"""From tickets back to the study, as values: the ranking by one-shot prunability beside the ranking by real tickets."""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from lottery.analysis.findings import FEWEST_MODELS, Scores, rank_correlation
from lottery.analysis.imp.results import ImpResults
from lottery.analysis.imp.verdict import mean
from lottery.experiments.threshold import COST_LEVELS, last_crossing

LEVEL = "5% more"


def at_a_cost(outcome: ImpResults, arm: str = "ticket") -> dict[str, tuple[float, float]]:
    """Return for each model between which sparsities an arm's mean loss rises to 5% above the dense one.

    These are the last level below it, 0 for the dense model, and the next; infinite beyond the last level. Levels lie too far apart to
    interpolate: the first may leave a third of the weights.
    """
    found = {}
    for model in outcome.models if outcome.levels else []:
        columns = [outcome.by_seed(model, arm if level else outcome.baseline(model), level) for level in (0, *outcome.levels)]
        rows = pd.concat(columns, axis=1).dropna().to_numpy()
        if not len(rows) or not np.isfinite(rows[:, 0]).all():
            continue
        sparsities = np.array([0.0, *(1 - outcome.left(level) for level in outcome.levels)])
        _, (below,), (above,) = last_crossing(sparsities, rows.sum(0, keepdims=True), COST_LEVELS[LEVEL])
        found[model] = float(below), float(above)
    return found


def both_scores(outcome: ImpResults, one_shot: Scores) -> pd.DataFrame:
    """Return a row for each model that has both a one-shot score and a ticket.

    It holds the sparsity at which one-shot pruning costs 5%, where it is known closely, and what is lost by its ticket at the last level,
    as a multiple of the dense model's loss (a ``MeanCI``). The ticket's own 5% would not do: good tickets cost less than that at every
    level. ``seeds`` are those in which it could be made.
    """
    rows = []
    for model in outcome.models if outcome.levels else []:
        by_seed = (outcome.by_seed(model, "ticket", outcome.levels[-1]) / outcome.by_seed(model, outcome.baseline(model), 0)).dropna()
        times = mean(by_seed)
        known = model in one_shot and (one_shot[model][LEVEL].is_number or math.isinf(one_shot[model][LEVEL].at))
        if known and not math.isnan(times.value):
            rows.append({"model": model, "one_shot": one_shot[model][LEVEL].at, "times_dense": times, "seeds": len(by_seed)})
    return pd.DataFrame(rows, columns=["model", "one_shot", "times_dense", "seeds"])


@dataclass(frozen=True)
class RankAgreement:
    """How the ranking by one-shot prunability and that by tickets go together.

    Attributes:
        models: How many architectures have both scores.
        left: The share of the weights that the tickets leave.
        rho: Spearman's rank correlation.
        p: The share of orders as extreme by chance.
    """

    models: int
    left: float = math.nan
    rho: float = math.nan
    p: float = math.nan

    @property
    def comparable(self) -> bool:
        return self.models >= FEWEST_MODELS

    @property
    def decided(self) -> bool:
        return self.p <= 0.05


def rank_agreement(outcome: ImpResults, one_shot: Scores) -> RankAgreement:
    """Return how well one-shot prunability ranks architectures as their tickets do."""
    both = both_scores(outcome, one_shot)
    if len(both) < FEWEST_MODELS:
        return RankAgreement(len(both))
    rho, chance = rank_correlation(list(both["one_shot"]), [-times.value for times in both["times_dense"]])
    return RankAgreement(len(both), outcome.left(outcome.levels[-1]), rho, chance)
