"""What allocations have in common: one number for each block becomes its sparsity, and their mean is the target."""

from lottery.pruning.methods.wanda import wanda_scores
from lottery.pruning.selection import Chunks, score_chunks
from lottery.pruning.walk import Layer


def weighted_mean(values: list[float], weights: list[int]) -> float:
    """Average one value per block over all weights."""
    return sum(value * weight for value, weight in zip(values, weights, strict=True)) / sum(weights)


def stretched(values: list[float], weights: list[int], sparsity: float, width: float) -> list[float]:
    """Return a sparsity for each block whose density is its value, stretched to a range of ``width`` and shifted to meet the target."""
    low, high = min(values), max(values)
    kept = [width * (value - low) / (high - low) if high > low else 0.0 for value in values]
    mean = weighted_mean(kept, weights)
    return [sparsity - (one - mean) for one in kept]


def wanda_chunks(layer: Layer) -> Chunks:
    """Make chunks of a layer's weights with their Wanda scores."""
    norms = layer.inputs.norms()
    return score_chunks(layer.linear.weight, lambda rows, which: wanda_scores(rows, norms))
