"""AlphaPruning: sparsity from the spectra of the weights (Lu et al. 2024, arXiv 2410.10912)."""

import statistics

import torch
from torch import nn

from lottery.models.blocks import blocks, by_block
from lottery.models.calls import moved
from lottery.pruning.allocations.blockwise import layer_sparsities, weighted_mean
from lottery.pruning.registry import allocation

# ε: half the range of the blocks' sparsities before they are scaled to the target. The authors' scripts have 0.2 for Wanda and SparseGPT on
# LLaMA-7B, and 0.3 for Wanda on LLaMA-2-7B; the smaller one can be met at more sparsities.
RANGE = 0.2


@allocation("alphapruning", "keeps more weights in blocks whose spectrum has a heavier tail", "Lu et al. 2024, arXiv 2410.10912")
def alphapruning(model: nn.Module, sparsity: float, samples: None = None, device=None, progress=None) -> dict[str, float]:
    """Keep more weights in blocks whose weights have a heavier-tailed spectrum.

    A block's exponent is the mean of its layers' ``tail_exponent``. The blocks' sparsities are the exponents, mapped linearly to [1 - ε, 1
    + ε] with ε = 0.2 and scaled so that the mean sparsity is the target.

    Args:
        model: The dense model.
        sparsity: The target.
        samples: Ignored: this allocation needs no data.
        device: Where blocks are worked on; ``None`` leaves them where they are.
        progress: Ignored.

    Returns:
        Each layer's sparsity.

    Raises:
        ImpossibleTrialError: A block's sparsity would leave [0, 1).
    """
    exponents = []
    for block, layers in zip(blocks(model), by_block(model), strict=True):
        with moved([block], device):
            exponents.append(statistics.fmean(tail_exponent(layer.weight) for layer in layers.values()))
    low, high = min(exponents), max(exponents)
    sparsities = [1 - RANGE + 2 * RANGE * (e - low) / (high - low) if high > low else 1.0 for e in exponents]
    scale = sparsity / weighted_mean(sparsities, model)
    return layer_sparsities(model, [scale * one for one in sparsities], "alphapruning", sparsity)


@torch.no_grad()
def tail_exponent(weight: torch.Tensor) -> float:
    """Return the Hill estimate of the power-law exponent of the spectrum's tail, from the larger half of the eigenvalues of WᵀW.

    1 + k / Σ_{i=1..k} ln(λ_{n-i+1} / λ_{n-k}), eigenvalues in ascending order, k = n // 2. The smaller the estimate, the heavier the tail.
    The authors' code calls this its *mid* way to find where the tail begins; their scripts take the peak of its histogram.
    """
    eigenvalues = torch.linalg.svdvals(weight.float()).double().square().flip(0)
    eigenvalues = eigenvalues[eigenvalues > 0]
    k = len(eigenvalues) // 2
    spread = float((eigenvalues[-k:] / eigenvalues[-k - 1]).log().sum()) if k else 0.0
    return 1 + k / spread if spread else 1.0
