"""What allocations have in common: block sparsities become layer sparsities, and their mean is the target."""

from torch import nn

from lottery.common.errors import LotteryError
from lottery.models.blocks import by_block


def sizes(model: nn.Module) -> list[int]:
    """Count the prunable weights of each block."""
    return [sum(layer.weight.numel() for layer in layers.values()) for layers in by_block(model)]


def weighted_mean(values: list[float], model: nn.Module) -> float:
    """Average one value per block over all prunable weights."""
    weights = sizes(model)
    return sum(value * weight for value, weight in zip(values, weights, strict=True)) / sum(weights)


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
        LotteryError: A block's sparsity is outside [0, 1): the target cannot be met.
    """
    for index, wanted in enumerate(block_sparsities):
        if not 0 <= wanted < 1:
            raise LotteryError(
                f"allocation: {what} at sparsity {sparsity:g} would take {100 * wanted:.1f}% of block {index}, allowed: 0% to below 100%;"
                " ask for less sparsity, or take allocation: uniform"
            )
    return {name: wanted for layers, wanted in zip(by_block(model), block_sparsities, strict=True) for name in layers}
