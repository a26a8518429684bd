"""The same sparsity everywhere."""

from lottery.pruning.registry import allocation


@allocation("uniform", "gives every block the same sparsity", "")
def uniform(sparsity: float, measured: None, weights: list[int]) -> list[float]:
    """Return the target for each block."""
    return [sparsity] * len(weights)
