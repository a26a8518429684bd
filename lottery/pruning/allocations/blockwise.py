"""What allocations have in common: sparsities of blocks become sparsities of layers, and their mean is the target."""

from torch import nn

from lottery.common.errors import LotteryError
from lottery.models.blocks import by_block


def sizes(model: nn.Module) -> list[int]:
    """Prunable weights of each block."""
    return [sum(layer.weight.numel() for layer in layers.values()) for layers in by_block(model)]


def weighted_mean(values: list[float], model: nn.Module) -> float:
    """The mean of a value a block over all prunable weights."""
    weights = sizes(model)
    return sum(value * weight for value, weight in zip(values, weights, strict=True)) / sum(weights)


def layer_sparsities(model: nn.Module, block_sparsities: list[float], what: str, sparsity: float) -> dict[str, float]:
    """Each layer's sparsity, from its block's. **Raises** ``LotteryError`` where one is outside [0, 1): the target cannot be met."""
    for index, wanted in enumerate(block_sparsities):
        if not 0 <= wanted < 1:
            raise LotteryError(
                f"allocation: {what} at sparsity {sparsity:g} would take {100 * wanted:.1f}% of block {index}, allowed: 0% to below 100%;"
                " ask for less sparsity, or take allocation: uniform"
            )
    return {name: wanted for layers, wanted in zip(by_block(model), block_sparsities, strict=True) for name in layers}
