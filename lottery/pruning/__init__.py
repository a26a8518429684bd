"""Pruning: which weights go. Scores and masks are functions of tensors; ``prune`` is the one that knows a model."""

from lottery.pruning.magnitude import zero_smallest_
from lottery.pruning.scope import Sparsity, count_zeros, prunable

__all__ = ["Sparsity", "count_zeros", "prunable", "prune", "zero_smallest_"]


def prune(model, method: str, sparsity: float) -> None:
    """Prunes the linear layers inside the blocks, in place, keeping no mask and no copy.

    **Arguments**: a dense model; 'dense' (does nothing) or 'magnitude' (per layer); the share of each layer's weights to zero.
    """
    if method == "dense":
        return
    for name, layer in prunable(model).items():
        zero_smallest_(layer.weight.data, round(sparsity * layer.weight.numel()), name)
