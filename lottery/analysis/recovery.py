"""What retraining gives back, as values: each retrained variant beside what it was, beside its zeros kept, and beside the dense control."""

import math
from dataclasses import dataclass

import pandas as pd

from lottery.analysis.comparison import Interval, bits_ratio, widened
from lottery.analysis.frame import frame
from lottery.experiments.records import Record
from lottery.pruning.variants import RETRAINED
from lottery.training.recoveries import steps_to_choose

MASKED = "masked"


def recovered(records: list[Record]) -> pd.DataFrame:
    """Return a row for each retrained record: the columns of ``frame``, and what it compares with.

    ``before`` is the bits per byte of its start as a multiple of the dense ones, not a number where the start is missing.
    ``beside_masked`` is its bits per byte as a multiple of those of the same start, retrained on the same tokens with its zeros kept; they
    are paired over windows and have a 95% interval. What starts from the dense model is compared with the best that has as many zeros, and
    the interval widened for as many as there are.
    ``choice_tokens`` were trained on besides ``tokens``, to choose the learning rate; ``seconds`` are of both.
    ``moved`` is the share of the zeros of a pruned start that retraining moved, not a number where that was not measured.
    ``edge`` is "≥" or "≤" where the rate was the highest or lowest of several: one beyond may do better.
    ``beside_best`` is the same beside the best masked one whatever its start, for a single pair: ``recoveries`` widens it. Both are not a
    number for what is masked itself.
    """
    data, requests = frame(records), [record.request for record in records]
    factors = dict(zip([(r.model, r.request.variant) for r in records], data["bits_factor"], strict=True)) if len(data) else {}
    data["recovery"] = [request.recovery for request in requests]
    data["loss"] = [request.loss for request in requests]
    data["windows"] = [len(record.result.window_nll) for record in records]
    data["tokens"] = [_tokens(request, request.recover_steps) for request in requests]
    data["choice_tokens"] = [_tokens(request, _steps_of_choice(request)) for request in requests]
    data["seconds"] = [record.result.recovery_seconds for record in records]
    data["moved"] = pd.Series([record.result.recovery_moved for record in records], dtype=float)
    data["rate"] = [record.result.recovery_learning_rate for record in records]
    data["edge"] = [_edge(record.result.recovery_learning_rate, record.request.recover_learning_rate or []) for record in records]
    data["before"] = [
        1.0 if request.method == RETRAINED else factors.get((record.model, request.variant.unchanged), math.nan)
        for record, request in zip(records, requests, strict=True)
    ]
    for column, any_start in (("beside_masked", False), ("beside_best", True)):
        paired = [_beside(record, _masked(records, record, any_start), widen=not any_start) for record in records]
        for end, name in enumerate(_interval(column)):
            data[name] = [one[end] for one in paired]
    return data[[bool(request.recovery) for request in requests]].reset_index(drop=True)


def _tokens(request, steps: int) -> float:
    return steps * request.recover_batch_size * request.calibration_seq_len if request.recovery else math.nan


def _edge(rate: float | None, rates: list[float]) -> str:
    return "" if len(rates) < 2 or min(rates) < rate < max(rates) else "≥" if rate == max(rates) else "≤"


def _steps_of_choice(request) -> int:
    """Return how many steps it took to choose a learning rate, all rates together."""
    rates = request.recover_learning_rate or []
    return len(rates) * steps_to_choose(request.recover_steps) if len(rates) > 1 else 0


def _beside(record: Record, masked: list[Record], widen: bool) -> Interval:
    """Return a record's bits per byte as a multiple of the best masked one's, not numbers where there is none."""
    if not masked:
        return Interval(math.nan)
    return bits_ratio(record, min(masked, key=lambda one: one.result.bits_per_byte), len(masked) if widen else 1)


def _masked(records: list[Record], record: Record, any_start: bool) -> list[Record]:
    """Return the masked records to compare a retrained one with: of the same start, or of any."""
    asked = record.request
    if not asked.recovery or not asked.sparsity or asked.recovery == MASKED:
        return []
    found = []
    for other in records:
        request = other.request
        same = (other.model, request.recovery, request.loss) == (record.model, MASKED, asked.loss)
        start = any_start or (request.method, request.allocation) == (asked.method, asked.allocation) or asked.method == RETRAINED
        if same and start and (request.pattern, request.sparsity) == (asked.pattern, asked.sparsity):
            found.append(other)
    return found


@dataclass(frozen=True)
class Contest:
    """The best masked retraining against the best that moves zeros, at one sparsity, on the same tokens.

    Attributes:
        masked: What the masked one is called.
        masked_factor: Its bits per byte, as a multiple of the dense model's.
        other: What the other one is called; empty where nothing moves zeros.
        other_factor: The same of it.
        ratio: Bits per byte of the other as a multiple of the masked one's, paired over windows.
        low: The lower end of its 95% interval; not a number where there are too few windows. As these two are the best of their kinds on
            the very text that is scored, it is widened for the number of pairs (``comparison.widened``).
        high: The upper end.
        pairs: How many pairs of their kinds there are.
    """

    masked: str
    masked_factor: float
    other: str = ""
    other_factor: float = math.nan
    ratio: float = math.nan
    low: float = math.nan
    high: float = math.nan
    pairs: int = 1

    @property
    def winner(self) -> str:
        """The one that predicts better; empty where their interval holds 1 or is not known."""
        return self.other if self.high < 1 else self.masked if self.low > 1 else ""


@dataclass(frozen=True)
class Control:
    """The dense model, retrained on as much: its bits per byte as a multiple of what they were, with the 95% interval."""

    distilled: bool
    factor: float
    low: float
    high: float


@dataclass(frozen=True)
class Recovered:
    """What retraining did to one model.

    Attributes:
        model: The model.
        tokens: How many tokens each was retrained on.
        controls: The dense model retrained, one for each loss.
        contests: One for each loss, pattern and sparsity.
    """

    model: str
    tokens: int
    controls: list[Control]
    contests: list[Contest]


def recoveries(data: pd.DataFrame) -> list[Recovered]:
    """Return what retraining did to each model, from the rows of ``recovered``."""
    found = []
    for model, rows in data.groupby("model", sort=False):
        dense, pruned = rows[rows["sparsity"] == 0], rows[rows["sparsity"] > 0]
        controls = [
            Control(row[0] == "distillation", *row[1:]) for row in dense[["loss", *_interval("bits_factor")]].itertuples(index=False)
        ]
        levels = pruned.groupby(["loss", "pattern", "sparsity"], sort=False)
        contests = [contest for _, level in levels if (contest := _contest(level))]
        found.append(Recovered(model, int(rows["tokens"].iloc[0]), controls, contests))
    return found


def _contest(level: pd.DataFrame) -> Contest | None:
    level = level.sort_values("bits_factor")
    masked, others = level[level["recovery"] == MASKED], level[level["beside_best"].notna()]
    if masked.empty:
        return None
    own = (masked["title"].iloc[0], float(masked["bits_factor"].iloc[0]))
    if others.empty:
        return Contest(*own)
    best, pairs = others.iloc[0], len(masked) * len(others)
    interval = widened(Interval(*(float(best[name]) for name in _interval("beside_best"))), pairs, int(best["windows"]))
    return Contest(*own, best["title"], float(best["bits_factor"]), *interval, pairs)


def _interval(name: str) -> list[str]:
    return [name, f"{name}_low", f"{name}_high"]
