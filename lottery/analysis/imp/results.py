"""The runs of the lottery ticket procedure, read as an experiment: means and intervals over seeds, and verdicts, as values."""

import math
from functools import cached_property, partial
from typing import NamedTuple

import numpy as np
import pandas as pd

from lottery.analysis.imp.verdict import (
    MARGIN,
    OPEN,
    TICKET,
    Compared,
    Verdict,
    compared,
    holm,
    mean,
    of_model,
    share_of,
    why_not,
)
from lottery.experiments.imp.arms import CONTROLS, DENSE
from lottery.experiments.imp.records import TicketRecord, best_rate


class CheckpointLoss(NamedTuple):
    """The held-out loss of a model's dense runs, in the mean over seeds, and that of the weights that its checkpoint has."""

    model: str
    dense: float
    checkpoint: float


class Trouble(NamedTuple):
    """A problem that runs of a model had at a level.

    Attributes:
        model: The model.
        left: The share of the weights left.
        arms: The arms that had it.
        seeds: The seeds in which they had it.
        problem: The problem.
    """

    model: str
    left: float
    arms: list[str]
    seeds: list[int]
    problem: str


class ImpResults:
    """The records of a procedure, read as an experiment: arms, levels and seeds of each architecture."""

    def __init__(self, records: list[TicketRecord]):
        self.rates = {model: best_rate(tried) for model, tried in _tried(records).items()}
        self.tried = sorted({record.request.learning_rate for record in records})
        self.records = [record for record in records if record.request.learning_rate == self.rates[record.request.model]]
        self.of_other_rates = [record for record in records if record.request.learning_rate != self.rates[record.request.model]]

    @cached_property
    def data(self) -> pd.DataFrame:
        """A row a run: model, seed, arm, level, share of the weights left, held-out loss, steps to the model's target loss, problem.

        What diverged has an infinite loss. What could not be made, because pruning left nothing of a layer, has none. One shot to the first
        level is the ticket of the first level, and stands here under both names.
        """
        rows = [
            {
                "model": record.request.model,
                "seed": record.request.seed,
                "arm": arm,
                "level": record.request.level,
                "left": 1 - record.request.sparsity,
                "loss": record.result.loss if record.result.curve else math.nan,
                "steps": _steps_to(record, self.targets.get(record.request.model, math.nan)),
                "seconds": record.result.seconds,
                "problem": record.result.problem,
                "record": record.request.file_name,
            }
            for record in self.records
            for arm in _names(record)
        ]
        return pd.DataFrame(rows, columns=["model", "seed", "arm", "level", "left", "loss", "steps", "seconds", "problem", "record"])

    @cached_property
    def targets(self) -> dict[str, float]:
        """For each model the loss that its dense runs have, in the mean, after half their steps."""
        halves: dict[str, list[float]] = {}
        for record in self.records:
            if record.request.arm == "dense" and not record.result.problem:
                steps, losses = zip(*record.result.curve, strict=True)
                halves.setdefault(record.request.model, []).append(float(np.interp(record.request.steps / 2, steps, losses)))
        return {model: sum(values) / len(values) for model, values in halves.items()}

    @property
    def models(self) -> list[str]:
        return list(dict.fromkeys(record.request.model for record in self.records))

    @property
    def levels(self) -> list[int]:
        return sorted(set(self.data["level"]) - {0})

    @property
    def seeds(self) -> int:
        return self.data["seed"].nunique()

    def by_seed(self, model: str, arm: str, level: int, what: str = "loss") -> pd.Series:
        """Return a column of an arm at a level, by seed."""
        data = self.data
        return data[(data["model"] == model) & (data["arm"] == arm) & (data["level"] == level)].set_index("seed")[what]

    def baseline(self, model: str) -> str:
        """Return the dense arm that a ticket is judged beside: the better one in the mean, of those that are recorded."""
        means = {arm: mean(self._losses(model, arm, 0)).value for arm in DENSE}
        return min((arm for arm in DENSE if not math.isnan(means[arm])), key=lambda arm: means[arm], default=DENSE[0])

    def _losses(self, model: str, arm: str, level: int) -> pd.Series:
        """Return the losses of an arm at a level for every seed: infinite where a run has none, not a number where it is missing."""
        found = self.by_seed(model, arm, level).where(self.by_seed(model, arm, level, "problem") == "", math.inf)
        return found.reindex(sorted(set(self.data.loc[self.data["model"] == model, "seed"])))

    def compared(self, model: str, level: int, error: float) -> tuple[Compared, dict[str, Compared]]:
        """Compare the ticket of a level with the better dense arm, and each control with the ticket.

        What could not be made, because pruning left nothing of a layer, counts as diverged: a procedure that ends so has found no ticket.
        """
        losses = partial(self._losses, model)
        dense, ticket = losses(self.baseline(model), 0), losses("ticket", level)
        middle = mean(dense).value
        margin = MARGIN * middle if math.isfinite(middle) else math.nan  # then nothing is decided
        beside = compared(ticket, dense, margin, error)
        if any(losses(arm, 0).isna().any() for arm in DENSE):  # which of the two is better is not known
            beside = Compared("missing", beside.difference)
        return beside, {arm: compared(losses(arm, level), ticket, margin, error) for arm in CONTROLS}

    @cached_property
    def verdict(self) -> dict[str, Verdict]:
        """For each model what is decided, and why."""
        judged = holm(self.models, lambda model, error: of_model(self.levels, partial(self.compared, model), error))
        return {model: self._explained(model, *found) for model, found in judged.items()}

    def _explained(self, model: str, verdict: str, level: int | None, error: float) -> Verdict:
        """Return a verdict with what it rests on.

        Args:
            model: The model.
            verdict: What was decided.
            level: The level of its ticket, where it has one.
            error: The error that the model was judged at.
        """
        if not self.levels:
            return Verdict(verdict, obstacle="only dense")
        if self.by_seed(model, DENSE[0], 0).count() < 2:
            return Verdict(OPEN, obstacle="one seed")
        if math.isinf(mean(self._losses(model, self.baseline(model), 0)).value):
            return Verdict(verdict, obstacle="no dense loss")
        if verdict == TICKET:
            beside, _ = self.compared(model, level, share_of(error, TICKET, self.levels))
            return Verdict(verdict, left=self.left(level), beside=beside)
        each = share_of(error, verdict, self.levels)
        return Verdict(verdict, why_not={self.left(at): why_not(*self.compared(model, at, each)) for at in self.levels})

    def left(self, level: int) -> float:
        """Return the share of the prunable weights that a level leaves."""
        return float(self.data.loc[self.data["level"] == level, "left"].iloc[0])

    @property
    def at_the_edge(self) -> list[str]:
        """Models whose best learning rate is the lowest or the highest of several that were tried."""
        ends = (self.tried[0], self.tried[-1]) if len(self.tried) > 1 else ()
        return [model for model, rate in self.rates.items() if rate in ends]

    @property
    def checkpoint_losses(self) -> list[CheckpointLoss]:
        """The losses of the models whose checkpoints were scored too."""
        found = []
        for model in self.models:
            known = [r.result.checkpoint_loss for r in self.records if r.request.model == model and r.result.checkpoint_loss is not None]
            if known:
                found.append(CheckpointLoss(model, mean(self.by_seed(model, "dense", 0)).value, known[0]))
        return found

    @property
    def troubles(self) -> list[Trouble]:
        """What diverged, and what could not be pruned: arms in which the same happened in the same seeds together."""
        data = self.data[self.data["problem"] != ""]
        seeds = data.groupby(["model", "left", "problem", "arm"], sort=False)["seed"].agg(lambda found: tuple(sorted(found))).reset_index()
        alike = seeds.groupby(["model", "left", "problem", "seed"], sort=False)["arm"].agg(list).reset_index()
        return [Trouble(row.model, row.left, row.arm, list(row.seed), row.problem) for row in alike.itertuples()]


def _tried(records: list[TicketRecord]) -> dict[str, list[TicketRecord]]:
    """Return for each model its dense runs of the first seed, one for each learning rate tried; without any, one run of whatever exists."""
    found: dict[str, list[TicketRecord]] = {}
    for record in records:
        found.setdefault(record.request.model, []).append(record)
    for model, of_model_ in found.items():
        first = min(record.request.seed for record in of_model_)
        dense = [r for r in of_model_ if r.request.arm == "dense" and r.request.seed == first]
        found[model] = dense or of_model_[:1]
    return found


def _names(record: TicketRecord) -> list[str]:
    request = record.request
    return ["ticket", "one-shot"] if request.arm == "ticket" and request.level == 1 else [request.arm]


def _steps_to(record: TicketRecord, target: float) -> float:
    """Return the steps until the held-out loss first reaches the target, interpolated linearly on the curve; infinite if it never does."""
    if record.result.problem:
        return math.inf if record.result.curve else math.nan
    before = None
    for point in record.result.curve:
        if point.loss <= target:
            if before is None:
                return float(point.step)
            return before.step + (point.step - before.step) * (before.loss - target) / (before.loss - point.loss)
        before = point
    return math.inf
