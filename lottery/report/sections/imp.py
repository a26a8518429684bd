"""What the runs of the lottery ticket procedure say: means and intervals over seeds, and verdicts."""

import math
from functools import cached_property, partial

import numpy as np
import pandas as pd

from lottery.analysis.imp_verdict import MARGIN, MEANING, NO_TICKET, OPEN, TICKET, Compared, compared, holm, mean, of_model, why_not
from lottery.common.format import number, percent
from lottery.config.profile import Tickets
from lottery.experiments.imp.arms import ARMS, CONTROLS, DENSE
from lottery.experiments.imp.records import TicketRecord, TicketRequest, best_rate
from lottery.report.markdown import table


class ImpResults:
    """The records of a procedure, read as an experiment: arms, levels and seeds of each architecture."""

    def __init__(self, records: list[TicketRecord]):
        self.rates = {model: best_rate(tried) for model, tried in _tried(records).items()}
        self.tried = sorted({record.request.learning_rate for record in records})
        self.records = [record for record in records if record.request.learning_rate == self.rates[record.request.model]]

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
        means = {arm: mean(self.by_seed(model, arm, 0)).value for arm in DENSE}
        return min((arm for arm in DENSE if not math.isnan(means[arm])), key=lambda arm: means[arm], default=DENSE[0])

    def compared(self, model: str, level: int, error: float) -> tuple[Compared, dict[str, Compared]]:
        """Compare the ticket of a level with the better dense arm, and each control with the ticket.

        What could not be made, because pruning left nothing of a layer, counts as diverged: a procedure that ends so has found no ticket.
        """

        def losses(arm: str, at: int) -> pd.Series:
            found = self.by_seed(model, arm, at).where(self.by_seed(model, arm, at, "problem") == "", math.inf)
            return found.reindex(sorted(set(self.data.loc[self.data["model"] == model, "seed"])))

        dense, ticket = losses(self.baseline(model), 0), losses("ticket", level)
        middle = mean(dense).value
        margin = MARGIN * middle if math.isfinite(middle) else math.nan  # then nothing is decided
        beside = compared(ticket, dense, margin, error)
        if any(losses(arm, 0).isna().any() for arm in DENSE):  # which of the two is better is not known
            beside = Compared("missing", beside.difference)
        return beside, {arm: compared(losses(arm, level), ticket, margin, error) for arm in CONTROLS}

    @cached_property
    def verdict(self) -> dict[str, tuple[str, str]]:
        """For each model 'ticket', 'no ticket' or 'not decided', and the sentence that says why."""
        found = {}
        judged = holm(self.models, lambda model, error: of_model(self.levels, partial(self.compared, model), error))
        for model, (verdict, level, error) in judged.items():
            if not self.levels:
                why = "nothing is recorded but the dense model"
            elif self.by_seed(model, DENSE[0], 0).count() < 2:
                verdict, why = OPEN, "an interval needs at least two seeds"
            elif math.isinf(mean(self.by_seed(model, self.baseline(model), 0)).value):
                why = "a dense run has no finite loss"
            elif verdict == TICKET:
                beside, _ = self.compared(model, level, error / len(self.levels))
                as_well = "better than" if beside.case == "better" else "as well as"
                left = f"with {percent(self.left(level))} of the weights left"
                why = f"{left} it does {as_well} the dense model ({beside}), and every control does worse"
            else:
                looks = 4 if verdict == NO_TICKET else len(self.levels)
                why = "; ".join(
                    f"with {percent(self.left(level))} left {why_not(*self.compared(model, level, error / looks))}" for level in self.levels
                )
            found[model] = verdict, why
        return found

    def left(self, level: int) -> float:
        """Return the share of the prunable weights that a level leaves."""
        return float(self.data.loc[self.data["level"] == level, "left"].iloc[0])

    def verdicts(self) -> str:
        """Return a line for each model, and what a verdict means."""
        if not self.records:
            return "*No run is recorded.*"
        lines = []
        for model in self.models:
            verdict, why = self.verdict[model]
            lines.append(f"- **{model}: {verdict}.** {why[0].upper()}{why[1:]}.")
        return "\n".join(lines) + f"\n\n{MEANING}"

    def protocol(self, notebook: str) -> str:
        """Say how it was measured, in the numbers of the records, and what it took."""
        if not self.records:
            return ""
        minutes = sum(record.result.seconds for record in self.records) / 60
        return (
            f"{schedule(self.records[0].request)} {self._of_rates()} {self._of_checkpoints()} {len(self.records)} runs,"
            f" {_seeds(self.seeds)}, {number(minutes)} minutes of computing in all{notebook}."
        )

    def _of_rates(self) -> str:
        """Give the peak learning rate of each architecture, and say how it was chosen."""
        if len(self.tried) == 1:
            return f"The peak learning rate is {self.tried[0]:g}."
        chosen = ", ".join(f"{rate:g} for {model}" for model, rate in self.rates.items())
        edge = [model for model, rate in self.rates.items() if rate in (self.tried[0], self.tried[-1])]
        tried = ", ".join(f"{rate:g}" for rate in self.tried)
        return (
            f"The peak learning rate is {chosen}: of {tried} the one with which the dense model of the first seed does best on training"
            " text that no run is trained on." + (f" {' and '.join(edge)} might do better beyond those tried." if edge else "")
        )

    def _of_checkpoints(self) -> str:
        """Say how the dense model compares with the weights that the checkpoint itself has."""
        parts = []
        for model in self.models:
            known = [r.result.checkpoint_loss for r in self.records if r.request.model == model and r.result.checkpoint_loss is not None]
            if known:
                parts.append(f"{model} {number(mean(self.by_seed(model, 'dense', 0)).value)} ({number(known[0])})")
        return f"Held-out loss of the dense models, and of the checkpoints' own weights: {', '.join(parts)}." if parts else ""

    def losses(self) -> str:
        """Return a table for each model: a row an arm, a column a level."""
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
        """Return a mean loss, and of how many seeds where some could not be made."""
        losses = self.by_seed(model, arm, level)
        few = f", {losses.notna().sum()} of {_seeds(len(losses))}" if losses.isna().any() and losses.notna().any() else ""
        return "none" if len(losses) and losses.isna().all() else f"{mean(losses)}{few}"

    def problems(self) -> str:
        """Say what diverged, and what could not be pruned, a line a level."""
        troubled = self.data[self.data["problem"] != ""]
        seeds = troubled.groupby(["model", "left", "problem", "arm"], sort=False)["seed"].agg(
            lambda found: ", ".join(map(str, sorted(found)))
        )
        alike = seeds.reset_index().groupby(["model", "left", "problem", "seed"], sort=False)["arm"].agg(", ".join).reset_index()
        return "\n".join(
            f"- {row.model} with {percent(row.left)} left, {row.arm} of seed {row.seed}: {row.problem}" for row in alike.itertuples()
        )


def schedule(asked: TicketRequest | Tickets) -> str:
    """Say how each run is trained, pruned and rewound."""
    where = "each layer's smallest" if asked.scope == "layer" else "the smallest of all layers together"
    back = f"step {asked.rewind}" if asked.rewind else "the initialisation"
    return (
        f"Each run: {asked.steps:,} steps of {asked.batch_size} windows of {asked.seq_len} tokens, AdamW, rewound to"
        f" {back}. Each round prunes {percent(asked.prune_fraction)} of what is left in the linear layers inside the blocks, {where}."
    )


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


def _seeds(count: int) -> str:
    return f"{count} seed{'s' if count > 1 else ''}"


def of_intervals(seeds: int) -> str:
    """Return what a caption says of intervals over so many seeds."""
    return " with its 95% interval" if seeds > 1 else "; one seed is too few for an interval"
