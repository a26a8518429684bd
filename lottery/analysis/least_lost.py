"""Which model loses least at a sparsity: whose text gets dearer by the smallest factor when so many weights are gone."""

import math
from dataclasses import dataclass

import numpy as np

from lottery.analysis.comparison import Interval, widened
from lottery.evaluation import bootstrap
from lottery.experiments.records import Record


@dataclass(frozen=True)
class LeastLost:
    """The model that loses least at a sparsity.

    Attributes:
        sparsity: The share of weights pruned.
        model: The model.
        factor: Its bits per byte as a multiple of the dense model's, with the 95% interval.
        rivals: Those that cannot be told apart from it.
        others: How many other models were measured there.
        blind: Whether even this one predicts worse than token frequencies alone.
    """

    sparsity: float
    model: str
    factor: Interval
    rivals: list[str]
    others: int
    blind: bool


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
    found = []
    for sparsity, grid in grids.items():
        factors = {model: record.result.bits_per_byte / dense[model].result.bits_per_byte for model, record in grid.items()}
        best = min(factors, key=factors.get)
        if not math.isfinite(factors[best]):
            continue
        windows, draws = min(len(r.result.window_nll) for r in grid.values()), {}
        own = Interval(factors[best])
        if windows >= bootstrap.MIN_WINDOWS:
            draws = {model: _factors(record, dense[model]) for model, record in grid.items()}
            own = Interval(factors[best], *bootstrap.interval(draws[best], windows))
        rivals = [model for model in factors if model != best and not _more(factors, draws, model, best, pairs, windows)]
        floor = dense[best].result.unigram_bits_per_byte
        found.append(LeastLost(sparsity, best, own, rivals, len(grid) - 1, grid[best].result.bits_per_byte > floor))
    return found


def _factors(record: Record, dense: Record) -> np.ndarray:
    """Return a variant's bits as multiples of the dense model's for each resampled text, the same windows for both."""
    times = bootstrap.draws(record.model, len(record.result.window_nll))
    return bootstrap.resampled(record.result.window_nll, times) / bootstrap.resampled(dense.result.window_nll, times)


def _more(factors: dict[str, float], draws: dict[str, np.ndarray], model: str, best: str, pairs: int, windows: int) -> bool:
    """Return whether a model is shown to lose more than the best."""
    if not draws:
        return False
    low, high = bootstrap.interval(draws[model] / draws[best], windows)
    return widened(Interval(factors[model] / factors[best], low, high), pairs, windows).low > 1
