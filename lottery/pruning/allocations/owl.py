"""OWL: outlier-weighed layer-wise sparsity (Yin et al. 2023, arXiv 2310.05175)."""

import torch
from torch import nn

from lottery.pruning.allocations.blockwise import stretched, wanda_chunks
from lottery.pruning.registry import allocation
from lottery.pruning.selection import Chunks
from lottery.pruning.walk import Layer, walk

OUTLIER, RANGE = 5.0, 0.08  # M and λ of the paper, which shows them for LLaMA-7B; they are not tuned here


def outlier_shares(model: nn.Module, samples: torch.Tensor, **walking) -> list[float]:
    """Return ``outlier_share`` of each block of the dense model, fed samples [samples, length]."""
    shares: list[float] = []
    walk(model, samples, lambda _, layers: shares.append(outlier_share(layers)), changes=False, **walking)
    return shares


def outlier_share(layers: list[Layer]) -> float:
    """Return OWL's D: the percentage of a block's Wanda scores above M = 5 times their mean."""
    scores = [wanda_chunks(layer) for layer in layers]
    mean = mean_score(scores, layers)
    above = sum(int((score > OUTLIER * mean).sum()) for chunks in scores for _, score in chunks())
    return 100 * above / sum(layer.linear.weight.numel() for layer in layers)


def mean_score(chunks: list[Chunks], layers: list[Layer]) -> float:
    """Return the mean of all scores of a block's layers."""
    total = sum(float(score.sum(dtype=torch.float64)) for one in chunks for _, score in one())
    return total / sum(layer.linear.weight.numel() for layer in layers)


@allocation(
    "owl", "keeps more weights in blocks with more outliers", "Yin et al. 2023, arXiv 2310.05175", calibrated=True, measure=outlier_shares
)
def owl(sparsity: float, shares: list[float], weights: list[int]) -> list[float]:
    """Keep more weights in blocks with more outliers.

    A block's outlier share is D = 100 · mean(A > M · mean(A)). A is the Wanda scores of all its layers on the dense model, and M = 5. The
    blocks' densities are D, stretched to a range of 2λ = 0.16 and shifted so that the mean sparsity is the target.

    Args:
        sparsity: The target.
        shares: D of each block.
        weights: Prunable weights of each block.

    Returns:
        Each block's sparsity; outside [0, 1) where the target cannot be met.
    """
    return stretched(shares, weights, sparsity, 2 * RANGE)
