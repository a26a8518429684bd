"""Magnitude pruning: the smallest weights go (Han et al. 2015, arXiv 1506.02626)."""

import torch

from lottery.pruning.selection import chunks, kth_magnitude


def zero_smallest_(weight: torch.Tensor, count: int, name: str = "weight") -> None:
    """Sets the ``count`` entries of smallest magnitude to zero, in place.

    The same entries as ``torch.nn.utils.prune.l1_unstructured`` up to ties; among equal magnitudes the first in memory go, so
    that the result is the same on every run and device. Entries that are zero already are among the ``count``.

    **Arguments**: ``weight``, any shape, any floating dtype, contiguous; ``count``, 0 to its number of entries; ``name`` for errors.

    **Raises** ``LotteryError`` where a weight is not finite; ``ValueError`` for an impossible count or a tensor that is not contiguous.
    """
    if not 0 <= count <= weight.numel():
        raise ValueError(f"{name}: given count {count}; allowed: 0 to {weight.numel()}")
    if not weight.is_contiguous():
        raise ValueError(f"{name}: the tensor is not contiguous; call .contiguous() and prune that")
    if weight.numel() == 0:
        return
    last = kth_magnitude(weight, max(count, 1), name)
    if count == 0:
        return
    ties_to_go = count - last.smaller
    for bits, magnitude in chunks(weight):
        if ties_to_go == last.equal:  # all of them, as nearly always in float32: no need to look for the first ones
            bits.mul_(magnitude > last.pattern)
            continue
        bits.mul_(magnitude >= last.pattern)
        if ties_to_go:
            first = (magnitude == last.pattern).nonzero().squeeze(1)[:ties_to_go]
            bits[first] = 0
            ties_to_go -= len(first)
