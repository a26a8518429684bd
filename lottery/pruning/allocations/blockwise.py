"""What allocations have in common: one number for each block becomes its sparsity, and their mean is the target."""

import torch

from lottery.pruning.methods.wanda import wanda_scores
from lottery.pruning.selection import Chunks, kth_lowest, score_chunks
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


def mean_score(chunks: list[Chunks], layers: list[Layer]) -> float:
    """Return the mean of all scores of a block's layers."""
    total = sum(float(score.sum(dtype=torch.float64)) for one in chunks for _, score in one())
    return total / sum(layer.linear.weight.numel() for layer in layers)


def median_score(layers: list[Layer]) -> float:
    """Return the median Wanda score of a block's layers, of an even number the lower one of the two in the middle."""
    chunks = [wanda_chunks(layer) for layer in layers]
    half = (sum(layer.linear.weight.numel() for layer in layers) + 1) // 2
    found = kth_lowest(lambda: (pair for one in chunks for pair in one()), half)
    return torch.tensor(found.pattern, dtype=torch.int32).view(torch.float32).item()
