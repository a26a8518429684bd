"""DLP: dynamic layer-wise pruning (Chen et al. 2025, arXiv 2505.23807)."""

import torch
from torch import nn

from lottery.pruning.allocations.blockwise import stretched, wanda_chunks
from lottery.pruning.registry import allocation
from lottery.pruning.selection import kth_lowest
from lottery.pruning.walk import Layer, walk

RANGE = 0.15  # α of the authors' scripts


def median_scores(model: nn.Module, samples: torch.Tensor, **walking) -> list[float]:
    """Return the median Wanda score of each block's weights on the dense model, fed samples [samples, length]."""
    scores: list[float] = []
    walk(model, samples, lambda _, layers: scores.append(median_score(layers)), changes=False, **walking)
    return scores


def median_score(layers: list[Layer]) -> float:
    """Return the median Wanda score of a block's layers, of an even number the lower one of the two in the middle."""
    chunks = [wanda_chunks(layer) for layer in layers]
    half = (sum(layer.linear.weight.numel() for layer in layers) + 1) // 2
    found = kth_lowest(lambda: (pair for one in chunks for pair in one()), half)
    return torch.tensor(found.pattern, dtype=torch.int32).view(torch.float32).item()


@allocation(
    "dlp",
    "keeps more weights in blocks with lower scores",
    "Chen et al. 2025, arXiv 2505.23807",
    calibrated=True,
    measure=median_scores,
    version=2,  # 1 took means
)
def dlp(sparsity: float, scores: list[float], weights: list[int]) -> list[float]:
    """Keep more weights in blocks with lower Wanda scores.

    With S the median Wanda score of all weights of a block on the dense model, its importance is 1 - S / ΣS: scores grow with the
    activations from block to block, and the first blocks matter most. Densities are the importances, stretched to a range of 2α = 0.3 and
    shifted so that the mean sparsity is the target. α is fixed here: it is not tuned on the text that is scored.

    Args:
        sparsity: The target.
        scores: S of each block.
        weights: Prunable weights of each block.

    Returns:
        Each block's sparsity; outside [0, 1) where the target cannot be met.
    """
    return stretched([1 - score / sum(scores) for score in scores], weights, sparsity, 2 * RANGE)
