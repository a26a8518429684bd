"""Which of two records predicts the text better, as a ratio with its error."""

import math
from typing import NamedTuple

import numpy as np

from lottery.evaluation import bootstrap
from lottery.experiments.records import Record


class Interval(NamedTuple):
    """A ratio with the lower and the upper end of its 95% interval."""

    ratio: float
    low: float = math.nan
    high: float = math.nan


def bits_ratio(record: Record, other: Record, comparisons: int = 1) -> Interval:
    """Return a record's bits per byte as a multiple of another's, with the 95% interval.

    Variants of one model are paired: the same windows are drawn for both, so that what is hard in the text cancels. Two models cut the text
    into other windows. They are drawn independently, so that the interval is rather too wide than too narrow.

    Args:
        record: The one.
        other: The other, of the same text.
        comparisons: How many pairs these two were chosen from for their bits on that text; the interval is ``widened`` for as many.

    Returns:
        The ratio and its interval. The ends are not numbers where there are too few windows, or where two of a model differ in theirs.
    """
    results = record.result, other.result
    ratio, windows = results[0].bits_per_byte / results[1].bits_per_byte, min(len(one.window_nll) for one in results)
    if windows < bootstrap.MIN_WINDOWS or (record.model == other.model and results[0].window_bytes != results[1].window_bytes):
        return Interval(ratio)
    own, others = (nats_per_byte(one) for one in (record, other))
    with np.errstate(invalid="ignore"):
        ratios = own / others
    ratios[np.isnan(ratios)] = 1.0  # infinity over infinity: neither is better
    return widened(Interval(ratio, *bootstrap.interval(ratios, windows)), comparisons, windows)


def nats_per_byte(record: Record) -> np.ndarray:
    """Return a record's nats per byte for each resampled text [draws]; the same texts for all records of a model."""
    result = record.result
    times = bootstrap.draws(record.model, len(result.window_nll))
    return bootstrap.resampled(result.window_nll, times) / bootstrap.resampled(result.window_bytes, times)


def widened(interval: Interval, comparisons: int, windows: int) -> Interval:
    """Return a ratio and its 95% interval from so many windows, so wide that as many of them all hold the truth 95 times in a hundred.

    The ratio's logarithm is widened by ``bootstrap.wider``. Where one of two is infinite, there is nothing to widen.
    """
    ratio, low, high = interval
    if not ratio or not math.isfinite(ratio):
        return interval
    more = bootstrap.wider(comparisons, windows)
    return Interval(ratio, ratio * (low / ratio) ** more, ratio * (high / ratio) ** more)
