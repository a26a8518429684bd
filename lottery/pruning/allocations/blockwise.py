"""What allocations have in common: block sparsities become layer sparsities, and their mean is the target."""

import torch
from torch import nn

from lottery.common.errors import ImpossibleTrialError
from lottery.models.blocks import by_block
from lottery.pruning.methods.wanda import wanda_scores
from lottery.pruning.selection import Chunks, score_chunks
from lottery.pruning.walk import Layer


def sizes(model: nn.Module) -> list[int]:
    """Count the prunable weights of each block."""
    return [sum(layer.weight.numel() for layer in layers.values()) for layers in by_block(model)]


def weighted_mean(values: list[float], model: nn.Module) -> float:
    """Average one value per block over all prunable weights."""
    weights = sizes(model)
    return sum(value * weight for value, weight in zip(values, weights, strict=True)) / sum(weights)


def stretched(values: list[float], model: nn.Module, sparsity: float, width: float) -> list[float]:
    """Return a sparsity for each block whose density is its value, stretched to a range of ``width`` and shifted to meet the target."""
    low, high = min(values), max(values)
    kept = [width * (value - low) / (high - low) if high > low else 0.0 for value in values]
    mean = weighted_mean(kept, model)
    return [sparsity - (one - mean) for one in kept]


def wanda_chunks(layer: Layer) -> Chunks:
    """Make chunks of a layer's weights with their Wanda scores."""
    norms = layer.inputs.norms()
    return score_chunks(layer.linear.weight, lambda rows, which: wanda_scores(rows, norms))


def mean_score(chunks: list[Chunks], layers: list[Layer]) -> float:
    """Return the mean of all scores of a block's layers."""
    total = sum(float(score.sum(dtype=torch.float64)) for one in chunks for _, score in one())
    return total / sum(layer.linear.weight.numel() for layer in layers)


def layer_sparsities(model: nn.Module, block_sparsities: list[float], what: str, sparsity: float) -> dict[str, float]:
    """Give each layer the sparsity of its block.

    Args:
        model: The dense model.
        block_sparsities: One sparsity per block.
        what: The allocation's name, for errors.
        sparsity: The target, for errors.

    Returns:
        Each layer's sparsity.

    Raises:
        ImpossibleTrialError: A block's sparsity is outside [0, 1): the target cannot be met.
    """
    for index, wanted in enumerate(block_sparsities):
        if not 0 <= wanted < 1:
            raise ImpossibleTrialError(
                f"allocation: {what} at sparsity {sparsity:g} would take {100 * wanted:.1f}% of block {index}, allowed: 0% to below 100%;"
                " ask for less sparsity, or take allocation: uniform"
            )
    return {name: wanted for layers, wanted in zip(by_block(model), block_sparsities, strict=True) for name in layers}
