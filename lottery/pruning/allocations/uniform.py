"""The same sparsity everywhere."""

from torch import nn

from lottery.models.blocks import prunable
from lottery.pruning.registry import allocation


@allocation("uniform", "gives every block the same sparsity", "")
def uniform(model: nn.Module, sparsity: float, samples: None = None, **walking) -> dict[str, float]:
    """Return the target for each layer."""
    return dict.fromkeys(prunable(model), sparsity)
