"""SparseGPT (Frantar & Alistarh 2023, arXiv 2301.00774): prune one column after the other and update those behind to compensate."""

import math

import torch

from lottery.pruning.activations import ActivationStats
from lottery.pruning.layer_spec import LayerSpec
from lottery.pruning.registry import method
from lottery.pruning.selection import lowest

BLOCK = 128  # columns whose weights are compared, and between which errors are spread at once
_STRIP = 16  # columns within a block that are worked off one by one: small enough to stay in the cache


@method(
    "sparsegpt",
    "prunes column by column and updates the remaining weights to make up for the error",
    "Frantar and Alistarh 2023, arXiv 2301.00774",
    needs="hessian",
)
def sparsegpt_(weight: torch.Tensor, spec: LayerSpec, inputs: ActivationStats, dtype: torch.dtype = torch.float32) -> None:
    """Prune a layer and update what stays, so that its outputs on the calibration inputs change least.

    H = 2XᵀX/n with damping, and U is the upper Cholesky factor of H⁻¹. In blocks of 128 columns, the weights with the lowest w²/U_jj² go,
    exactly round(sparsity · n) of each block. With N:M they go from each group when its turn comes. The error of each column is spread over
    those to its right. Inputs that are always 0 lose their weights.

    The block's columns are worked off in strips. The error of a column is spread at once within its strip only, over the rest of the block
    by one product per strip, and over the rest of the layer by one product per block. The result is the paper's; the memory is read a tenth
    as often.

    Args:
        weight: Weights [out, in].
        spec: What to prune.
        inputs: Statistics of the layer's inputs, with products.
        dtype: The dtype to compute in; the result is cast back to the weight's own.

    Raises:
        LotteryError: The pattern does not fit, as in ``LayerSpec.check``; a weight is not finite; or the Hessian cannot be factorized.
    """
    spec.check_values(weight)
    width, pattern = weight.shape[1], spec.pattern
    upper, dead = inputs.factor(spec.name, dtype)
    columns = weight.T.to(dtype, memory_format=torch.contiguous_format, copy=True)  # [in, out]: a column is one stretch of memory
    columns[dead] = 0
    strip = math.ceil(_STRIP / pattern.group) * pattern.group if pattern else _STRIP
    block = max(BLOCK // strip, 1) * strip
    for start in range(0, width, block):
        stop = min(start + block, width)
        errors = _block(columns[start:stop], upper[start:stop, start:stop], strip, spec)
        columns[stop:].addmm_(upper[start:stop, stop:].T, errors, alpha=-1)
    weight.copy_(columns.T)


def _block(columns: torch.Tensor, upper: torch.Tensor, strip: int, spec: LayerSpec) -> torch.Tensor:
    """Prune the columns of one block, in place, and return their errors [columns, out] for the columns behind."""
    diagonal = upper.diagonal()[:, None]
    if spec.pattern is None:
        score = (columns / diagonal).view(1, -1)
        gone = lowest(score, round(spec.sparsity * columns.numel())).view_as(columns)
    else:
        gone = torch.zeros_like(columns, dtype=torch.bool)
    errors = torch.zeros_like(columns)
    for start in range(0, len(columns), strip):
        stop = min(start + strip, len(columns))
        for j in range(start, stop):
            if spec.pattern and (j - start) % spec.pattern.group == 0:
                group = slice(j, j + spec.pattern.group)
                gone[group] = lowest((columns[group] / diagonal[group]).T, spec.pattern.zeros).T
            torch.mul(columns[j], gone[j], out=errors[j])
            errors[j] /= upper[j, j]
            columns[j].masked_fill_(gone[j], 0)
            columns[j + 1 : stop].addr_(upper[j, j + 1 : stop], errors[j], alpha=-1)
        columns[stop:].addmm_(upper[start:stop, stop:].T, errors[start:stop], alpha=-1)
    return errors
