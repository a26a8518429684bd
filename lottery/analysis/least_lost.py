"""Which model loses least at a sparsity: whose text gets dearer by the smallest factor when so many weights are gone."""

import math
from dataclasses import dataclass

import numpy as np

from lottery.analysis.comparison import Interval, bits_ratio, nats_per_byte, widened
from lottery.evaluation import bootstrap
from lottery.experiments.records import Record


@dataclass(frozen=True)
class LeastLost:
    """The model that loses least at a sparsity.

    Attributes:
        sparsity: The share of weights pruned.
        model: The model; ``None`` where every one predicts worse than token frequencies alone, so that there is nothing to rank.
        factor: Its bits per byte as a multiple of the dense model's, with the 95% interval.
        rivals: Those that cannot be told apart from it.
        others: How many other models predict better than token frequencies there.
        few: Whether there are too few windows to tell models apart.
    """

    sparsity: float
    model: str | None
    factor: Interval
    rivals: list[str]
    others: int
    few: bool


def least_lost(by_model: dict[str, list[Record]], sparsities: list[float]) -> list[LeastLost]:
    """Return, for each sparsity at which two models or more were measured, which of them loses least.

    Two models cut the text into other windows, so they are drawn independently. The least is chosen on the text that is scored, so
    intervals between models allow for all pairs of them at all sparsities.

    Args:
        by_model: The records of each model by one way of pruning, with the dense one.
        sparsities: Those to compare at.
    """
    dense = {model: record for model, records in by_model.items() for record in records if record.request.method == "dense"}
    grids = {
        sparsity: {r.model: r for model in dense for r in by_model[model] if r.request.sparsity == sparsity and r.request.variant.one_shot}
        for sparsity in sparsities
    }
    grids = {sparsity: grid for sparsity, grid in grids.items() if len(grid) > 1}
    pairs = sum(math.comb(len(grid), 2) for grid in grids.values())
    return [_at(sparsity, grid, dense, pairs) for sparsity, grid in grids.items()]


def _at(sparsity: float, grid: dict[str, Record], dense: dict[str, Record], pairs: int) -> LeastLost:
    windows = min(len(record.result.window_nll) for record in grid.values())
    few = windows < bootstrap.MIN_WINDOWS
    seeing = {
        model: record
        for model, record in grid.items()
        if math.isfinite(record.result.bits_per_byte) and not record.result.bits_per_byte > dense[model].result.unigram_bits_per_byte
    }
    if not seeing:
        return LeastLost(sparsity, None, Interval(math.nan), [], 0, few)
    factors = {model: record.result.bits_per_byte / dense[model].result.bits_per_byte for model, record in seeing.items()}
    best = min(factors, key=factors.get)
    rivals = [model for model in factors if model != best]
    if not few:
        draws = {model: nats_per_byte(record) / nats_per_byte(dense[model]) for model, record in seeing.items()}
        rivals = [model for model in rivals if not _more(factors, draws, model, best, pairs, windows)]
    return LeastLost(sparsity, best, bits_ratio(seeing[best], dense[best]), rivals, len(factors) - 1, few)


def _more(factors: dict[str, float], draws: dict[str, np.ndarray], model: str, best: str, pairs: int, windows: int) -> bool:
    """Return whether a model is shown to lose more than the best."""
    low, high = bootstrap.interval(draws[model] / draws[best], windows)
    return widened(Interval(factors[model] / factors[best], low, high), pairs, windows).low > 1
