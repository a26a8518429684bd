"""The ticket score: how sparse a model can be made before text costs it 5% more bits per byte, and before it costs twice as many.

The score uses bits per byte and not perplexity, so that models with different tokenizers compare. Bits may fall before they rise: the score
is the last sparsity from which they stay above the level. It is known only as far as the two measured sparsities around it. It is stated as
a number only where these are at most ``FINE`` apart, and a bisection measures until they are. The 95% range covers both the gap between the
measured sparsities and the sample of text (bootstrap over blocks of windows).
"""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lottery.evaluation import bootstrap
from lottery.experiments.impossible import remembered
from lottery.experiments.records import Record, Request, read_record

COST_LEVELS = {"5% more": 1.05, "twice": 2.0}
FINE = 0.025  # of sparsity: no further apart may the measured ones lie between which a score is stated as a number


class Crossing(NamedTuple):
    """Where bits per byte pass a level.

    Attributes:
        at: Where a straight line in the logarithm between ``below`` and ``above`` passes the level; infinite where ``above`` is.
        below: The last measured sparsity at which the bits are below the level.
        above: The next measured sparsity, by which they have passed it; infinite where they are below it at the last one.
        low: The lower end of the 95% range.
        high: The upper end of the 95% range.
        lows: The lower end for each resampled text; empty where there are too few windows.
        highs: The upper end for each resampled text; empty where there are too few windows.
        windows: How many windows were scored.
        ats: ``at`` for each resampled text; empty where there are too few windows.
    """

    at: float
    below: float
    above: float
    low: float
    high: float
    lows: np.ndarray
    highs: np.ndarray
    windows: int
    ats: np.ndarray = np.array([])

    @property
    def has_interval(self) -> bool:
        return self.windows >= bootstrap.MIN_WINDOWS

    @property
    def reached(self) -> bool:
        """Whether the bits pass the level within what was measured."""
        return math.isfinite(self.above)

    @property
    def is_number(self) -> bool:
        """Whether both sides were measured closely enough to state it as a number."""
        return self.above - self.below <= FINE + 1e-9


def crossing(points: list[Record], level: float) -> Crossing | None:
    """Return where the bits per byte of a model's variants pass ``level`` times those of the dense one.

    Args:
        points: The dense record and those of one way of pruning, at rising sparsity.
        level: A multiple of the dense model's bits per byte.

    Returns:
        The crossing; ``None`` where the dense record or every pruned one is missing, and where the dense model's own bits are not finite,
        since nothing is a multiple of those.
    """
    if len(points) < 2 or points[0].request.method != "dense" or not np.isfinite(points[0].result.window_nll).all():
        return None
    sparsities = np.array([record.request.sparsity for record in points])
    totals = [bootstrap.finite(record.result.window_nll) for record in points]
    (at,), (below,), (above,) = last_crossing(sparsities, np.array([[total.sum() for total in totals]]), level)
    windows = len(totals[0])
    if windows < bootstrap.MIN_WINDOWS:
        return Crossing(float(at), float(below), float(above), math.nan, math.nan, np.array([]), np.array([]), windows)
    times = bootstrap.draws(points[0].model, windows)
    resampled = np.stack([bootstrap.resampled(total, times) for total in totals], axis=1)
    ats, lows, highs = last_crossing(sparsities, resampled, level)
    low, high = bootstrap.interval(lows, windows)[0], bootstrap.interval(highs, windows)[1]
    # The text as it is must lie inside, too, however few of the resampled ones pass where it does.
    return Crossing(float(at), float(below), float(above), min(low, float(below)), max(high, float(above)), lows, highs, windows, ats)


def width(one: Crossing, other: Crossing) -> Crossing:
    """Return how much sparsity lies between two crossings of one model, the lower level's first, as a crossing is given.

    Both are of the same resampled texts, so what moves both of them does not count as an error.
    """
    least, most = np.maximum(0.0, other.lows - one.highs), other.highs - one.lows
    below, above = max(0.0, other.below - one.above), other.above - one.below
    if not len(least):
        return Crossing(other.at - one.at, below, above, math.nan, math.nan, least, most, one.windows)
    low, high = bootstrap.interval(least, one.windows)[0], bootstrap.interval(most, one.windows)[1]
    return Crossing(other.at - one.at, below, above, min(low, below), max(high, above), least, most, one.windows, other.ats - one.ats)


def significantly_different(one: Crossing, other: Crossing, comparisons: int = 1) -> bool | None:
    """Return whether two crossings differ at the 95% level, wherever between the measured sparsities each lies; ``None`` without intervals.

    Texts of two models are resampled independently, although they are the same text. That is conservative, because what is hard for both
    would cancel. Those of one model are paired. Where both lie beyond what was measured, nothing tells them apart.

    Args:
        one: A crossing.
        other: Another one.
        comparisons: From how many pairs these two were chosen on the text that is scored; intervals are widened by ``bootstrap.wider``.
    """
    if not (one.has_interval and other.has_interval):
        return None
    windows = min(one.windows, other.windows)
    return _least(one, other, comparisons, windows) > 0 or _least(other, one, comparisons, windows) > 0


def _least(one: Crossing, other: Crossing, comparisons: int, windows: int) -> float:
    """Return how far one lies above another at least: as far as the measured sparsities around them leave no doubt, less what is chance.

    Chance is how far the crossings themselves, by straight lines, move towards each other over the resampled texts. One that is never
    reached counts as the last sparsity measured.
    """
    if math.isinf(other.above):
        return -math.inf
    upper = np.where(np.isfinite(one.ats), one.ats, one.lows)
    apart = (one.at if math.isfinite(one.at) else one.below) - other.at
    chance = max(0.0, apart - bootstrap.interval(upper - other.ats, windows)[0])
    return one.below - other.above - chance * bootstrap.wider(comparisons, windows)


def last_crossing(sparsities: np.ndarray, nll: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find, for each row of losses, the sparsity from which they stay at or above ``level`` times the first.

    A line to infinity passes every level where it begins.

    Args:
        sparsities: The sparsities of the columns, rising, the dense model's first.
        nll: Negative log-likelihoods [draws, sparsities], the dense column first.
        level: A multiple of the dense column.

    Returns:
        For each row: where a straight line in the logarithm passes the level, the last sparsity below it, and the next one. The first and
        the third are infinite where the end of the row is below the level.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(nll / nll[:, :1])
    wanted, rows = math.log(level), np.arange(len(logs))
    below = ~(logs >= wanted)  # the dense column always is
    last = logs.shape[1] - 1 - below[:, ::-1].argmax(1)
    passed = last < logs.shape[1] - 1
    following = np.minimum(last + 1, logs.shape[1] - 1)
    under, over = logs[rows, last], logs[rows, following]
    share = (wanted - under) / np.where(over > under, over - under, 1.0)
    at = sparsities[last] + share * (sparsities[following] - sparsities[last])
    return np.where(passed, at, np.inf), sparsities[last], np.where(passed, sparsities[following], np.inf)


def next_sparsity(points: list[Record]) -> float | None:
    """Return what to measure next so that the scores become numbers with narrow ranges; ``None`` where they are.

    This is the middle of the widest gap in which a level is passed. A gap of a few times ``FINE`` is cut where the straight line passes
    instead, so that one or two measurements do the work of three. Once the scores are numbers, some resampled texts may pass in a wide gap
    beside, so that the range reaches across all of it. Then the next measurement lies ``FINE`` into that gap.
    """
    found = [c for level in COST_LEVELS.values() if (c := crossing(points, level)) and math.isfinite(c.above)]
    wide = [c for c in found if not c.is_number]
    if not wide:
        return next((cut for c in found if (cut := _beside(c, [record.request.sparsity for record in points])) is not None), None)
    c = max(wide, key=lambda c: c.above - c.below)
    width = c.above - c.below
    if width <= 2 * FINE + 1e-9 or width > 8 * FINE or not c.below:
        return round((c.below + c.above) / 2, 3)
    # Half of FINE beyond the line, on the side of the far end: if the line is right, the next cut leaves no more than FINE.
    nearer_low = c.at - c.below < c.above - c.at
    cut = c.at + FINE / 2 if nearer_low else c.at - FINE / 2
    return round(min(max(cut, c.below + FINE), c.above - FINE), 3)


def _beside(score: Crossing, sparsities: list[float]) -> float | None:
    """Return the sparsity ``FINE`` into a wide gap beside the one in which the level is passed, where the 95% range reaches across it."""
    following = min((s for s in sparsities if s > score.above), default=score.above)
    if score.high > score.above and following - score.above > 2 * FINE + 1e-9:
        return round(score.above + FINE, 3)
    preceding = max((s for s in sparsities if s < score.below), default=score.below)
    if score.low < score.below and score.below - preceding > 2 * FINE + 1e-9:
        return round(score.below - FINE, 3)
    return None


def with_bisections(requests: list[Request], folder: Path) -> list[Request]:
    """Return the requests, followed by those that a bisection adds for each unstructured way of pruning.

    The added ones are only scored, without texts, timings and tasks. Where the records of a way are incomplete, it gets no requests yet:
    what was measured decides what comes next, so a run that was killed goes on in the same way. A bisection ends at a sparsity that cannot
    be made, since nobody named it.

    Args:
        requests: The requests that a profile names, the dense one first.
        folder: Of the study, with its records.
    """
    known = {request.key: read_record(folder, request) for request in requests}
    found = list(requests)
    ways = dict.fromkeys(r.variant.label for r in requests[1:] if r.pattern == "unstructured" and not r.variant.changed)
    for way in ways:
        own = [
            request for request in requests[1:] if request.variant.label == way and (known[request.key] or not remembered(folder, request))
        ]
        points = [known[request.key] for request in (requests[0], *own)]
        while all(points) and (sparsity := next_sparsity(sorted(points, key=lambda record: record.request.sparsity))):
            added = own[0].model_copy(update={"sparsity": sparsity, "prompts": 0, "repeats": 0, "tasks": []})
            points.append(read_record(folder, added))
            if not points[-1] and remembered(folder, added):
                break
            found.append(added)
    return found
