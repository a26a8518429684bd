"""Rounding of weights to a few bits: what pruning is held against at equal bytes.

Asymmetric, in groups of 128 as in GPTQ (arXiv 2210.17323) and AWQ (arXiv 2306.00978): ``GROUP`` neighbouring inputs of a row share a scale
in float16 and a zero point of as many bits as the weights. Zero is always one of the levels, so pruned weights stay zero.
"""

from typing import NamedTuple

import torch
from torch import nn

from lottery.common.errors import ImpossibleTrialError
from lottery.models.blocks import prunable
from lottery.pruning.activations import ActivationStats
from lottery.pruning.selection import not_finite
from lottery.pruning.walk import walk
from lottery.sparse.bitmask import mask_bytes

GROUP = 128  # neighbouring inputs of a row that share a scale
SCALE_BYTES = 2
_ROWS = 1024  # worked on at a time, so that a large layer needs no second copy in float32


class Rounder(NamedTuple):
    """A way to choose the level of each weight."""

    summary: str  # with the rounder as its subject
    source: str
    calibrated: bool


ROUNDERS = {
    "rtn": Rounder("rounds each weight to the nearest level", "as the baseline in Frantar et al. 2022, arXiv 2210.17323", False),
    "gptq": Rounder(
        "rounds column by column and updates the columns to come to make up for the error", "Frantar et al. 2022, arXiv 2210.17323", True
    ),
}


@torch.no_grad()
def round_model(model: nn.Module, rounder: str, bits: int, samples: torch.Tensor | None = None, *, device=None, progress=None) -> None:
    """Round every linear layer inside the blocks, in place; what a file would give back is written as plain weights, in the model's dtype.

    Args:
        model: A dense or pruned model.
        rounder: One of ``ROUNDERS``.
        bits: Bits a weight, 2 to 8.
        samples: Calibration tokens [samples, length], for a calibrated rounder.
        device: Where a calibrated rounder works on blocks; ``None`` leaves them where they are.
        progress: Called with the number of blocks done and of all blocks, by a calibrated rounder.

    Raises:
        ValueError: There is no such rounder, it is calibrated and has no samples, or bits are not 2 to 8.
        LotteryError: A weight is not finite, or as in ``walk``.
        ImpossibleTrialError: A scale is too large for float16, or as in ``ActivationStats.factor``.
    """
    if rounder not in ROUNDERS:
        raise ValueError(f"rounder: given {rounder!r}; allowed: {', '.join(ROUNDERS)}")
    if samples is None and ROUNDERS[rounder].calibrated:
        raise ValueError(f"rounder: {rounder} needs samples")
    _check_bits(bits)
    layers = prunable(model)
    for name, layer in layers.items():
        if not torch.isfinite(layer.weight).all():
            raise not_finite(name)
    if rounder == "gptq":

        def visit(_, fed) -> None:
            for layer in fed:
                gptq_(layer.linear.weight.data, bits, layer.inputs, layer.name)

        return walk(model, samples, visit, gram=True, device=device, progress=progress)
    for name, layer in layers.items():
        for rows in layer.weight.data.split(_ROWS):
            rows.copy_(dequantize(*quantize(rows, bits, name), rows.shape[1]))


def _check_bits(bits: int) -> None:
    if not 2 <= bits <= 8:
        raise ValueError(f"bits: given {bits}; allowed: 2 to 8")


def quantize(weight: torch.Tensor, bits: int, name: str = "the weight") -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the codes of a weight, each of the nearest level, and what turns them back into numbers.

    Args:
        weight: Weights [rows, columns].
        bits: Bits a weight, 2 to 8.
        name: What errors call the weight.

    Returns:
        Codes, uint8 [rows, groups, ``GROUP``], those beyond the last column standing for 0; scales, float16 [rows, groups, 1]; and zero
        points, uint8 [rows, groups, 1].

    Raises:
        ValueError: Bits are not 2 to 8.
        ImpossibleTrialError: A scale is too large for float16.
    """
    _check_bits(bits)
    values = nn.functional.pad(weight.float(), (0, -weight.shape[1] % GROUP)).unflatten(1, (-1, GROUP))
    scales, zeros = _levels(values, -1, bits, name)
    return _codes(values, scales, zeros, bits).byte(), scales.half(), zeros.byte()


def dequantize(codes: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor, columns: int) -> torch.Tensor:
    """Return the weights [rows, columns] in float32 that ``quantize`` gave the codes of."""
    return ((codes.float() - zeros.float()) * scales.float()).flatten(1)[:, :columns]


def gptq_(weight: torch.Tensor, bits: int, inputs: ActivationStats, name: str) -> None:
    """Round a layer by GPTQ, in place: column by column, the error of each spread over those to its right as SparseGPT spreads it.

    The levels of a group are set when its turn comes, from its weights as they are by then. Inputs that are always 0 lose their weights.
    Weights that are zero before stay zero, and what was spread over them is spread on.

    Args:
        weight: Weights [out, in].
        bits: Bits a weight, 2 to 8.
        inputs: Statistics of the layer's inputs, with products.
        name: The layer's name, for errors.

    Raises:
        ImpossibleTrialError: The Hessian cannot be factorized, or a scale is too large for float16.
    """
    upper, dead = inputs.factor(name)
    columns = weight.T.to(torch.float32, memory_format=torch.contiguous_format, copy=True)  # [in, out]: a column is one stretch of memory
    kept = columns != 0
    columns[dead] = 0
    for start in range(0, len(columns), GROUP):
        group, stays = columns[start : start + GROUP], kept[start : start + GROUP]
        stop, errors = start + len(group), torch.empty_like(group)
        scale, zero = (found[0] for found in _levels(group * stays, 0, bits, name))
        for j, column in enumerate(group):
            rounded = (_codes(column, scale, zero, bits) - zero) * scale * stays[j]
            errors[j] = (column - rounded) / upper[start + j, start + j]
            column.copy_(rounded)
            group[j + 1 :].addr_(upper[start + j, start + j + 1 : stop], errors[j], alpha=-1)
        columns[stop:].addmm_(upper[start:stop, stop:].T, errors, alpha=-1)
    weight.copy_(columns.T)


def _levels(values: torch.Tensor, dim: int, bits: int, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return scale and zero point of each group along a dimension, which stays with length 1; float32, but what float16 and uint8 hold."""
    highest = 2**bits - 1
    low, high = values.amin(dim, keepdim=True).clamp(max=0), values.amax(dim, keepdim=True).clamp(min=0)
    scales = ((high - low) / highest).half().float()
    if not torch.isfinite(scales).all():
        raise ImpossibleTrialError(f"{name}: its weights reach {values.abs().max():.3g}, too far for a scale in float16; drop rounding")
    scales[scales == 0] = 1  # a group of zeros, or of what float16 cannot tell from them
    return scales, (-low / scales).round().clamp(0, highest)


def _codes(values: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor, bits: int) -> torch.Tensor:
    return (values / scales).round().add(zeros).clamp(0, 2**bits - 1)


def rounded_bytes(weight: torch.Tensor, bits: int) -> int:
    """Return the bytes of a rounded weight [rows, columns] in a file.

    They are the codes, packed without gaps within a row, the scales and the zero points. Where a mask in the sparse-bitmask format and the
    codes of the nonzero weights alone take less, that is counted.
    """
    rows, columns = weight.shape
    groups = rows * -(-columns // GROUP)
    dense = rows * -(-columns * bits // 8)
    sparse = -(-int(torch.count_nonzero(weight)) * bits // 8) + mask_bytes(rows, columns)
    return min(dense, sparse) + groups * SCALE_BYTES + -(-groups * bits // 8)
