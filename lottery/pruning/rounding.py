"""Rounding of weights to a few bits: what pruning is held against at equal bytes.

Round to nearest (RTN), asymmetric, in groups of 128 as in GPTQ (arXiv 2210.17323) and AWQ (arXiv 2306.00978): ``GROUP`` neighbouring inputs
of a row share a scale in float16 and a zero point of as many bits as the weights. Zero is always one of the levels, so pruned weights stay
zero. No calibration data is used.
"""

import torch
from torch import nn

from lottery.common.errors import LotteryError
from lottery.models.blocks import prunable
from lottery.pruning.selection import not_finite

GROUP = 128  # neighbouring inputs of a row that share a scale
SCALE_BYTES = 2
_ROWS = 1024  # worked on at a time, so that a large layer needs no second copy in float32


@torch.no_grad()
def round_model(model: nn.Module, bits: int) -> None:
    """Round every linear layer inside the blocks to ``bits`` bits, in place; what the file would give back is written as plain weights.

    Args:
        model: A dense or pruned model.
        bits: Bits a weight, 2 to 8.

    Raises:
        LotteryError: A weight is not finite, or a scale is too large for float16.
    """
    for name, layer in prunable(model).items():
        if not torch.isfinite(layer.weight).all():
            raise not_finite(name)
        for rows in layer.weight.data.split(_ROWS):
            codes, scales, zeros = quantize(rows, bits)
            if not torch.isfinite(scales).all():
                raise LotteryError(f"{name}: its weights reach {rows.abs().max():.3g}, too far for a scale in float16; drop rounding")
            rows.copy_(dequantize(codes, scales, zeros, rows.shape[1]))


def quantize(weight: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the codes of a weight and what turns them back into numbers.

    Args:
        weight: Weights [rows, columns].
        bits: Bits a weight, 2 to 8.

    Returns:
        Codes, uint8 [rows, groups, ``GROUP``], those beyond the last column being zeros; scales, float16 [rows, groups, 1]; and zero
        points, uint8 [rows, groups, 1].
    """
    highest, missing = 2**bits - 1, -weight.shape[1] % GROUP
    values = nn.functional.pad(weight.float(), (0, missing)).unflatten(1, (-1, GROUP))
    low, high = values.amin(-1, keepdim=True).clamp(max=0), values.amax(-1, keepdim=True).clamp(min=0)
    scales = ((high - low) / highest).half()
    scales[scales == 0] = 1  # a group of zeros, or of what float16 cannot tell from them
    steps = scales.float()
    zeros = (-low / steps).round().clamp(0, highest)
    codes = (values / steps).round().add(zeros).clamp(0, highest)
    return codes.byte(), scales, zeros.byte()


def dequantize(codes: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor, columns: int) -> torch.Tensor:
    """Return the weights [rows, columns] in float32 that ``quantize`` gave the codes of."""
    return ((codes.float() - zeros.float()) * scales.float()).flatten(1)[:, :columns]


def rounded_bytes(weight: torch.Tensor, bits: int) -> int:
    """Return the bytes of a rounded weight [rows, columns] in a file.

    They are the codes, packed without gaps within a row, the scales and the zero points. Where a mask in the sparse-bitmask format and the
    codes of the nonzero weights alone take less, that is counted.
    """
    rows, columns = weight.shape
    groups = rows * -(-columns // GROUP)
    dense = rows * -(-columns * bits // 8)
    sparse = -(-int(torch.count_nonzero(weight)) * bits // 8) + rows * (-(-columns // 8) + 8) + 16
    return min(dense, sparse) + groups * SCALE_BYTES + -(-groups * bits // 8)
