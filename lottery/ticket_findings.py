"""What the runs of the lottery ticket procedure say: means and intervals over seeds, and verdicts."""

import math
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from lottery.params import Tickets
from lottery.show import table
from lottery.tables import number, percent
from lottery.ticket_records import ARMS, CONTROLS, TicketRecord, TicketRequest

TOLERANCE = 0.01  # of the dense model's loss: what is nearer than that counts as equal
MEANING = (
    f"*Ticket*: at some level it is not worse than the dense model by more than {percent(TOLERANCE)} of its loss, and better than each of"
    " three controls: its mask on new weights, a random mask, its mask shuffled. *No ticket*: at every level it is worse, or a control is"
    " as good. *Not decided*: the 95% intervals over seeds allow both. A ticket may be at any level, so the intervals that find one are"
    " made wider for the number of levels (Bonferroni)."
)


class Mean(NamedTuple):
    """A mean over seeds with its 95% interval (Student's t): not numbers where there are fewer than two seeds."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        if math.isnan(self.value):
            return ""
        return number(self.value) if math.isnan(self.low) else f"{number(self.value)} ({number(self.low)} to {number(self.high)})"


def mean(values, looks: int = 1) -> Mean:
    """The mean of a value a seed, those without one left out. Infinite, and without an interval, where any is.

    With several ``looks`` the intervals of all of them together hold at 95% (Bonferroni).
    """
    values = np.asarray(values, dtype=float)
    values = values[~np.isnan(values)]
    if not len(values) or not np.isfinite(values).all():
        return Mean(math.inf if len(values) else math.nan, math.nan, math.nan)
    centre = float(values.mean())
    if len(values) < 2:
        return Mean(centre, math.nan, math.nan)
    half = float(stats.t.ppf(1 - 0.025 / looks, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values)))
    return Mean(centre, centre - half, centre + half)


class Outcome:
    """The records of a procedure, read as an experiment: arms, levels and seeds of each architecture."""

    def __init__(self, records: list[TicketRecord]):
        self.records = records

    @cached_property
    def data(self) -> pd.DataFrame:
        """A row a run: model, seed, arm, level, share of the weights left, held-out loss, steps to the model's target loss, problem.

        What diverged has an infinite loss; what could not be made, because pruning left nothing of a layer, has none. One shot to the
        first level is the ticket of the first level, and stands here under both names.
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
        """A column of an arm at a level, by seed."""
        data = self.data
        return data[(data["model"] == model) & (data["arm"] == arm) & (data["level"] == level)].set_index("seed")[what]

    def difference(self, model: str, level: int, arm: str, less: str, looks: int = 1) -> Mean:
        """How much higher the loss of one arm is than that of another, seed by seed; ``dense`` is the same at every level."""
        one, other = (self.by_seed(model, name, 0 if name == "dense" else level) for name in (arm, less))
        with np.errstate(invalid="ignore"):
            return mean((one - other).dropna(), looks)

    def verdict(self, model: str) -> tuple[str, str]:
        """'ticket', 'no ticket' or 'not decided', and the sentence that says why.

        A ticket is a level at which the retrained ticket is not worse than the dense model by more than the tolerance, and better than
        every control; both with 95% intervals over seeds, made wider because it may be at any of the levels. There is none if at every
        level it is worse, or a control as good.
        """
        dense = mean(self.by_seed(model, "dense", 0))
        margin, found, ruled_out = TOLERANCE * dense.value, [], []
        looks = len(self.levels)
        for level in self.levels:
            surely = [self.difference(model, level, arm, "ticket", looks) for arm in CONTROLS]
            if self.difference(model, level, "ticket", "dense", looks).high <= margin and all(control.low > 0 for control in surely):
                found.append(level)
            beside = self.difference(model, level, "ticket", "dense")
            as_good = [arm for arm in CONTROLS if self.difference(model, level, arm, "ticket").high <= margin]
            if beside.low > margin or math.isinf(beside.value) or as_good:
                ruled_out.append(level)
        if found:
            gap = self.difference(model, found[-1], "ticket", "dense", looks)
            as_well = "better than" if gap.high < 0 else "as well as"
            return "ticket", (
                f"with {percent(self.left(found[-1]))} of the weights left it does {as_well} the dense model (loss {_by(gap)}), and no"
                " control does as well as it"
            )
        if not self.levels:
            return "not decided", "nothing is recorded but the dense model"
        if math.isinf(dense.value):
            return "not decided", "a dense run has no finite loss"
        if math.isnan(dense.low):
            return "not decided", "an interval needs at least two seeds"
        told = "; ".join(f"with {percent(self.left(level))} left {self._nearest(model, level, margin)}" for level in self.levels)
        return ("no ticket" if len(ruled_out) == len(self.levels) else "not decided"), told

    def _nearest(self, model: str, level: int, margin: float) -> str:
        """Why a level does not make a ticket: the first of its conditions that it does not meet."""
        beside = self.difference(model, level, "ticket", "dense")
        if math.isinf(beside.value):
            return "a run has no finite loss"
        if beside.low > margin:
            return f"it is worse than the dense model (loss {_by(beside)})"
        controls = {arm: self.difference(model, level, arm, "ticket") for arm in CONTROLS}
        arm = min(controls, key=lambda arm: controls[arm].value)
        if controls[arm].high <= margin:
            return f"{arm} does as well (loss {_by(controls[arm])})"
        beside = self.difference(model, level, "ticket", "dense", len(self.levels))
        if beside.high > margin:
            return f"it may be worse than the dense model (loss {_by(beside)})"
        controls = {arm: self.difference(model, level, arm, "ticket", len(self.levels)) for arm in CONTROLS}
        arm = min(controls, key=lambda arm: controls[arm].low)
        return f"{arm} may do as well (loss {_by(controls[arm])})"

    def left(self, level: int) -> float:
        """The share of the prunable weights that a level leaves."""
        return float(self.data.loc[self.data["level"] == level, "left"].iloc[0])

    def verdicts(self) -> str:
        """A line a model, and what a verdict means."""
        if not self.records:
            return "*No run is recorded.*"
        lines = []
        for model in self.models:
            verdict, why = self.verdict(model)
            lines.append(f"- **{model}: {verdict}.** {why[0].upper()}{why[1:]}.")
        return "\n".join(lines) + f"\n\n{MEANING}"

    def protocol(self, notebook: str) -> str:
        """How it was measured, in the numbers of the records, and what it took."""
        if not self.records:
            return ""
        minutes = sum(record.result.seconds for record in self.records) / 60
        return (
            f"{schedule(self.records[0].request)} {len(self.records)} runs, {_seeds(self.seeds)}, {number(minutes)} minutes of computing in"
            f" all{notebook}."
        )

    def losses(self) -> str:
        """A table a model: a row an arm, a column a level."""
        parts = []
        for model in self.models:
            rows = []
            for arm in ARMS:
                cells = {f"{percent(self.left(level) if level else 1)} left": self._cell(model, arm, level) for level in (0, *self.levels)}
                rows.append({"Arm": arm, **cells})
            caption = f"{model}: held-out loss in nats a token after training, the mean of {_seeds(self.seeds)}"
            parts.append(table(rows, right="|".join(list(rows[0])[1:]), caption=f"{caption}{of_intervals(self.seeds)}."))
        return "\n\n".join(parts)

    def _cell(self, model: str, arm: str, level: int) -> str:
        """A mean loss, and of how many seeds where some could not be made."""
        losses = self.by_seed(model, arm, level)
        few = f", {losses.notna().sum()} of {_seeds(len(losses))}" if losses.isna().any() and losses.notna().any() else ""
        return "none" if len(losses) and losses.isna().all() else f"{mean(losses)}{few}"

    def problems(self) -> str:
        """What diverged, and what could not be pruned, a line a level."""
        troubled = self.data[self.data["problem"] != ""]
        seeds = troubled.groupby(["model", "left", "problem", "arm"], sort=False)["seed"].agg(
            lambda found: ", ".join(map(str, sorted(found)))
        )
        alike = seeds.reset_index().groupby(["model", "left", "problem", "seed"], sort=False)["arm"].agg(", ".join).reset_index()
        return "\n".join(
            f"- {row.model} with {percent(row.left)} left, {row.arm} of seed {row.seed}: {row.problem}" for row in alike.itertuples()
        )


def schedule(asked: TicketRequest | Tickets) -> str:
    """How each run is trained, pruned and rewound, in words."""
    where = "each layer's smallest" if asked.scope == "layer" else "the smallest of all layers together"
    back = f"step {asked.rewind}" if asked.rewind else "the initialisation"
    return (
        f"Each run: {asked.steps:,} steps of {asked.batch} windows of {asked.window} tokens, AdamW, peak rate {asked.rate:g}, rewound to"
        f" {back}. Each round prunes {percent(asked.share)} of what is left in the linear layers inside the blocks, {where}."
    )


def _by(difference: Mean) -> str:
    """A difference of losses in words."""
    if difference.value >= 0 or math.isnan(difference.value):
        return f"higher by {difference}"
    return f"lower by {Mean(-difference.value, -difference.high, -difference.low)}"


def _names(record: TicketRecord) -> list[str]:
    request = record.request
    return ["ticket", "one-shot"] if request.arm == "ticket" and request.level == 1 else [request.arm]


def _steps_to(record: TicketRecord, target: float) -> float:
    """Steps until the held-out loss is first at the target, between points of the curve on a straight line; infinite if it never is."""
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


def _seeds(count: int) -> str:
    return f"{count} seed{'s' if count > 1 else ''}"


def of_intervals(seeds: int) -> str:
    """What a caption says of intervals over so many seeds."""
    return " with its 95% interval" if seeds > 1 else "; one seed is too few for an interval"
