"""AlphaPruning: sparsity from the spectra of the weights (Lu et al. 2024, arXiv 2410.10912)."""

import statistics

import torch
from torch import nn

from lottery.models.blocks import blocks, by_block
from lottery.models.calls import moved
from lottery.pruning.allocations.blockwise import weighted_mean
from lottery.pruning.registry import allocation

# ε: half the range of the blocks' sparsities before they are scaled to the target. The authors' scripts have 0.2 for Wanda and SparseGPT on
# LLaMA-7B, and 0.3 for Wanda on LLaMA-2-7B; the smaller one can be met at more sparsities.
RANGE = 0.2


def mean_tail_exponents(model: nn.Module, samples: None = None, device=None, progress=None) -> list[float]:
    """Return the mean of each block's tail exponents. It needs no samples; blocks are worked on on ``device``, or where they are."""
    exponents = []
    for block, layers in zip(blocks(model), by_block(model), strict=True):
        with moved([block], device):
            exponents.append(statistics.fmean(tail_exponent(layer.weight) for layer in layers.values()))
    return exponents


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


@allocation(
    "alphapruning",
    "keeps more weights in blocks whose spectrum has a heavier tail",
    "Lu et al. 2024, arXiv 2410.10912",
    measure=mean_tail_exponents,
)
def alphapruning(sparsity: float, exponents: list[float], weights: list[int]) -> list[float]:
    """Keep more weights in blocks whose weights have a heavier-tailed spectrum.

    The blocks' sparsities are their exponents, mapped linearly to [1 - ε, 1 + ε] with ε = 0.2 and scaled so that the mean sparsity is the
    target.

    Args:
        sparsity: The target.
        exponents: The mean of each block's ``tail_exponent``.
        weights: Prunable weights of each block.

    Returns:
        Each block's sparsity; outside [0, 1) where the target cannot be met.
    """
    low, high = min(exponents), max(exponents)
    sparsities = [1 - RANGE + 2 * RANGE * (e - low) / (high - low) if high > low else 1.0 for e in exponents]
    return [sparsity / weighted_mean(sparsities, weights) * one for one in sparsities]
