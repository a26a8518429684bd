"""Intervals of sums over windows of a text. Numbers only: no model, no torch.

Intervals come from a circular block bootstrap (Politis and Romano 1992). Neighbouring windows are alike because they may be from one
document, so runs of them are drawn together with replacement. A variant and its dense model get the same draws, so what is hard in the text
cancels in their ratios and differences. The percentiles are those of Hesterberg (arXiv 1411.5279, expanded percentile interval): few blocks
say little, and plain percentiles would be too narrow. ``tests/test_bootstrap.py`` checks them against the truth on synthetic windows.
"""

import math
import zlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from scipy.special import ndtr, stdtrit

N_RESAMPLES = 20_000  # of five blocks an interval ends at the 20th of these: with a tenth of them, chance would move its ends visibly
BLOCK = 4  # neighbouring windows that are drawn together
MIN_WINDOWS = 5 * BLOCK  # windows: an interval from fewer would claim more than it knows


def to_bits_per_byte(nats, scored_bytes):
    """Convert nats to bits per byte of the text they belong to; numbers, or an array of each."""
    return nats / (math.log(2) * scored_bytes)


def finite(values) -> np.ndarray:
    """Convert to float64, with infinity for everything that is not finite."""
    values = np.asarray(values, dtype=np.float64)
    return np.where(np.isfinite(values), values, np.inf)


def exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf


@lru_cache(maxsize=16)
def draws(model: str, windows: int) -> np.ndarray:
    """Draw windows for the bootstrap.

    Args:
        model: The model's name: all variants of a model get the same draws, another model gets others.
        windows: Number of windows.

    Returns:
        How often each window is drawn, int64 [draws, windows].
    """
    random, blocks = np.random.default_rng(zlib.crc32(model.encode())), math.ceil(windows / BLOCK)
    return _times(random.integers(windows, size=(N_RESAMPLES, blocks)), windows)


def common_draws(windows: Sequence[int]) -> list[np.ndarray]:
    """Draw the same places of one text for models that cut it into their own windows.

    A mean over models needs it: what is hard in the text is hard for all of them, and does not average out.

    Args:
        windows: Number of windows of each model.

    Returns:
        For each model what ``draws`` returns.
    """
    places = np.random.default_rng(0).random((N_RESAMPLES, math.ceil(max(windows) / BLOCK)))
    return [_times((places[:, : math.ceil(count / BLOCK)] * count).astype(int), count) for count in windows]


def _times(starts: np.ndarray, windows: int) -> np.ndarray:
    """Return how often each window is drawn, [draws, windows], from where the drawn blocks start, [draws, blocks]."""
    drawn = ((starts[:, :, None] + np.arange(BLOCK)) % windows).reshape(N_RESAMPLES, -1)[:, :windows]
    places = drawn + windows * np.arange(N_RESAMPLES)[:, None]  # one count for all draws
    return np.bincount(places.ravel(), minlength=N_RESAMPLES * windows).reshape(N_RESAMPLES, windows)


def resampled(values: Sequence[float], times: np.ndarray) -> np.ndarray:
    """Sum a value over the windows of each draw, [draws]; the sum is infinite if an infinite window is drawn."""
    values = finite(values)
    sums = times @ np.where(np.isinf(values), 0.0, values)
    return np.where(times[:, np.isinf(values)].any(1), np.inf, sums)


def interval(values: np.ndarray, windows: int) -> tuple[float, float]:
    """Return the 95% interval of values resampled from so many windows, infinity included."""
    blocks = windows / BLOCK
    tail = ndtr(math.sqrt(blocks / (blocks - 1)) * stdtrit(blocks - 1, 0.025))
    low, high = np.quantile(values, [tail, 1 - tail], method="nearest")
    return float(low), float(high)


def wider(comparisons: int, windows: int) -> float:
    """Return by what factor 95% intervals grow, so that as many of them all hold the truth 95 times in a hundred (Bonferroni).

    By Student's t, with a degree of freedom less than there are blocks, as the intervals themselves: the draws of a bootstrap end long
    before the tails that are asked for here.
    """
    freedom = windows / BLOCK - 1
    return float(stdtrit(freedom, 0.025 / comparisons) / stdtrit(freedom, 0.025))
