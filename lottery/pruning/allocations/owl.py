"""OWL: outlier-weighed layer-wise sparsity (Yin et al. 2023, arXiv 2310.05175)."""

import torch
from torch import nn

from lottery.pruning.allocations.blockwise import layer_sparsities, mean_score, stretched, wanda_chunks
from lottery.pruning.registry import allocation
from lottery.pruning.walk import Layer, walk

OUTLIER, RANGE = 5.0, 0.08  # M and λ of the paper


@allocation("owl", "keeps more weights in blocks with more outliers", "Yin et al. 2023, arXiv 2310.05175", needs="norms")
def owl(model: nn.Module, sparsity: float, samples: torch.Tensor, **walking) -> dict[str, float]:
    """Keep more weights in blocks with more outliers.

    A block's outlier share is D = 100 · mean(A > M · mean(A)). A is the Wanda scores of all its layers on the dense model, and M = 5. The
    blocks' densities are D, stretched to a range of 2λ = 0.16 and shifted so that the mean sparsity is the target.

    Args:
        model: The dense model.
        sparsity: The target.
        samples: Calibration tokens [samples, length].
        **walking: What ``walk`` takes.

    Returns:
        Each layer's sparsity.

    Raises:
        ImpossibleTrialError: A block's sparsity would leave [0, 1).
    """
    outliers: list[float] = []
    walk(model, samples, lambda _, layers: outliers.append(outlier_share(layers)), **walking)
    return layer_sparsities(model, stretched(outliers, model, sparsity, 2 * RANGE), "owl", sparsity)


def outlier_share(layers: list[Layer]) -> float:
    """Return OWL's D: the percentage of a block's Wanda scores above M = 5 times their mean."""
    scores = [wanda_chunks(layer) for layer in layers]
    mean = mean_score(scores, layers)
    above = sum(int((score > OUTLIER * mean).sum()) for chunks in scores for _, score in chunks())
    return 100 * above / sum(layer.linear.weight.numel() for layer in layers)
