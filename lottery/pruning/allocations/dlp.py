"""DLP: dynamic layer-wise pruning (Chen et al. 2025, arXiv 2505.23807)."""

import torch
from torch import nn

from lottery.pruning.allocations.blockwise import layer_sparsities, mean_score, stretched, wanda_chunks
from lottery.pruning.registry import allocation
from lottery.pruning.walk import walk

RANGE = 0.15  # α of the authors' scripts


@allocation("dlp", "keeps more weights in blocks with lower scores", "Chen et al. 2025, arXiv 2505.23807", needs="norms")
def dlp(model: nn.Module, sparsity: float, samples: torch.Tensor, **walking) -> dict[str, float]:
    """Keep more weights in blocks with lower Wanda scores.

    With S the mean Wanda score of all weights of a block on the dense model, its importance is 1 - S / ΣS: scores grow with the activations
    from block to block, and the first blocks matter most. Densities are the importances, stretched to a range of 2α = 0.3 and shifted so
    that the mean sparsity is the target. The paper speaks of medians; implementations take means. α is fixed here: it is not tuned on the
    text that is scored.

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
    scores: list[float] = []
    walk(model, samples, lambda _, layers: scores.append(mean_score([wanda_chunks(layer) for layer in layers], layers)), **walking)
    importance = [1 - score / sum(scores) for score in scores]
    return layer_sparsities(model, stretched(importance, model, sparsity, 2 * RANGE), "dlp", sparsity)
