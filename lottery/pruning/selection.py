"""Exact selection of the smallest magnitudes by radix, in two to five reads of the weights and almost no memory.

The bits of a non-negative float, read as an integer, are in the order of its value. So magnitudes are counted by their leading
16 bits; where the dtype has more, those that share the decisive leading bits are counted by the next 16, and so on: once for
16-bit floats, twice for float32, four times for float64. Nothing is sorted, nothing is sampled, and no case is slow.
"""

from typing import NamedTuple

import torch

from lottery.errors import LotteryError

_INTEGER = {2: torch.int16, 4: torch.int32, 8: torch.int64}
# Weights at a time. On a CPU a chunk and what is computed from it stay in the cache; a GPU wants few, large steps.
_CHUNK = {"cpu": 1 << 18, "cuda": 1 << 26}
_DIGIT = 16


class Magnitude(NamedTuple):
    """The bit pattern of a magnitude, how many entries are smaller, and how many are equal."""

    pattern: int
    smaller: int
    equal: int


def kth_magnitude(weight: torch.Tensor, k: int, name: str = "weight") -> Magnitude:
    """The ``k``-th smallest magnitude, exactly.

    **Arguments**: ``weight``, any shape, a 16-, 32- or 64-bit floating dtype, contiguous; ``k``, 1 to its number of entries;
    ``name`` for errors.

    **Raises** ``LotteryError`` where an entry is not finite.
    """
    width = 8 * weight.element_size()
    infinity = _pattern(torch.tensor(torch.inf, dtype=weight.dtype))
    prefix, smaller, equal = 0, 0, weight.numel()
    for shift in range(width - _DIGIT, -1, -_DIGIT):
        first = shift == width - _DIGIT
        counts = torch.zeros(1 << _DIGIT, dtype=torch.int64, device=weight.device)
        for _, magnitude in chunks(weight):
            if not first:
                magnitude = magnitude[(magnitude >> (shift + _DIGIT)) == prefix]
            digit = magnitude >> shift if first else (magnitude >> shift) & ((1 << _DIGIT) - 1)
            counts += torch.bincount(digit.to(torch.int32), minlength=1 << _DIGIT)
        if first and counts[infinity >> shift :].any():
            raise LotteryError(f"{name}: holds weights that are not finite; the checkpoint is damaged, or its dtype overflowed on loading")
        upto = counts.cumsum(0)
        digit = int(torch.searchsorted(upto, k - smaller))
        equal = int(counts[digit])
        smaller += int(upto[digit]) - equal
        prefix = prefix << _DIGIT | digit
    return Magnitude(prefix, smaller, equal)


def chunks(weight: torch.Tensor):
    """Pairs of a stretch of the weights' bits, as integers that can be written to, and the magnitudes' bits of that stretch."""
    integer = _INTEGER[weight.element_size()]
    sign_off = torch.iinfo(integer).max
    for bits in weight.view(-1).view(integer).split(_CHUNK.get(weight.device.type, _CHUNK["cpu"])):
        yield bits, bits & sign_off


def _pattern(value: torch.Tensor) -> int:
    return int(value.view(_INTEGER[value.element_size()]))
