"""The ticket score: how sparse a model can be made before text costs it 5% more bits per byte, and before it costs twice as many.

Bits per byte and not perplexity, so that models with different tokenizers compare. Between measured sparsities the logarithm of the
bits is taken as a straight line; the intervals are those of the sample of text (bootstrap over windows), not of that line.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from lottery import perplexity
from lottery.records import Record, Request

LEVELS = {"5% more": 1.05, "twice": 2.0}
DENSE_ENOUGH = 0.02  # a bisection stops where the measured sparsities on both sides are so near


class Crossing(NamedTuple):
    """The sparsity at which bits per byte pass a level; infinite where they do not within what was measured.

    ``low`` and ``high``: its 95% interval; ``after`` and ``before``: the measured sparsities between which it lies; ``draws``: the
    resampled values, empty where there are too few windows for an interval.
    """

    at: float
    low: float
    high: float
    after: float
    before: float
    draws: np.ndarray

    @property
    def has_interval(self) -> bool:
        return len(self.draws) > 0


def crossing(points: list[Record], level: float) -> Crossing | None:
    """Where the bits per byte of a model's variants pass ``level`` times those of the dense one.

    **Arguments**: the dense record and those of one way of pruning, at rising sparsity. **Returns** ``None`` where the dense record or
    every pruned one is missing, and where the dense model's own bits are not finite: nothing is a multiple of those.
    """
    if len(points) < 2 or points[0].request.method != "dense" or not np.isfinite(points[0].result.window_nll).all():
        return None
    sparsities = np.array([record.request.sparsity for record in points])
    totals = [perplexity.finite(record.result.window_nll) for record in points]
    found, passed = first_crossing(sparsities, np.array([[total.sum() for total in totals]]), level)
    at, index = found[0], passed[0]
    after, before = sparsities[index - 1], sparsities[index] if index < len(sparsities) else math.inf
    windows = len(totals[0])
    if windows < perplexity.FEWEST:
        return Crossing(float(at), math.nan, math.nan, float(after), float(before), np.array([]))
    times = perplexity.draws(points[0].model, windows)
    draws, _ = first_crossing(sparsities, np.stack([perplexity.resampled(total, times) for total in totals], axis=1), level)
    return Crossing(float(at), *perplexity.interval(draws), float(after), float(before), draws)


def told_apart(one: Crossing, other: Crossing) -> bool | None:
    """Whether two models differ at the 95% level; ``None`` where there is no interval to say so.

    Both may lie beyond what was measured: then nothing tells them apart.
    """
    if not (one.has_interval and other.has_interval):
        return None
    if math.isinf(one.at) and math.isinf(other.at):
        return False
    with np.errstate(invalid="ignore"):
        difference = np.nan_to_num(one.draws - other.draws, nan=0.0)
    low, high = perplexity.interval(difference)
    return not low <= 0 <= high


def first_crossing(sparsities: np.ndarray, nll: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """The first crossing of each row of ``nll`` [draws, sparsities], the dense column first, and the index of the sparsity behind it.

    Infinity, and the number of sparsities, where there is none. A line to infinity passes every level where it begins.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(nll / nll[:, :1])
    wanted = math.log(level)
    passed = logs >= wanted
    index = np.where(passed.any(1), passed.argmax(1), 1)
    rows = np.arange(len(logs))
    below, above = logs[rows, index - 1], logs[rows, index]
    share = (wanted - below) / np.where(above > below, above - below, 1.0)
    found = sparsities[index - 1] + share * (sparsities[index] - sparsities[index - 1])
    return np.where(passed.any(1), found, np.inf), np.where(passed.any(1), index, len(sparsities))


def next_sparsity(points: list[Record]) -> float | None:
    """What a bisection measures next: the middle of the widest gap in which a level is passed; ``None`` when all are narrow."""
    found = [crossing(points, level) for level in LEVELS.values()]
    gaps = [(c.before - c.after, c.after, c.before) for c in found if c and math.isfinite(c.before)]
    gaps = [gap for gap in gaps if gap[0] > DENSE_ENOUGH + 1e-9]
    if not gaps:
        return None
    _, after, before = max(gaps)
    return round((after + before) / 2, 3)


def with_bisections(requests: list[Request], read: Callable[[Request], Record | None]) -> list[Request]:
    """The requests, and after them those that a bisection adds for each unstructured way of pruning.

    **Arguments**: the requests that a profile names, the dense one first; ``read``, the record of a request or ``None``. Where a way's
    records are not complete nothing is added yet: what was measured decides what comes next, so a run that was killed goes on alike.
    """
    known = {request.key: read(request) for request in requests}
    found = list(requests)
    ways = dict.fromkeys(r.variant.label for r in requests[1:] if r.pattern == "unstructured")
    for way in ways:
        own = [request for request in requests[1:] if request.variant.label == way]
        points = [known[request.key] for request in (requests[0], *own)]
        while all(points) and (sparsity := next_sparsity(sorted(points, key=lambda record: record.request.sparsity))):
            found.append(own[0].model_copy(update={"sparsity": sparsity}))
            points.append(read(found[-1]))
    return found
