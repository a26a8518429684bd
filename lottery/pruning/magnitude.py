"""Magnitude pruning: the smallest weights go (Han et al. 2015, arXiv 1506.02626)."""

import torch

from lottery.errors import LotteryError


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
    if not torch.isfinite(weight).all():
        raise LotteryError(f"{name}: holds weights that are not finite; the checkpoint is damaged, or its dtype overflowed on loading")
    if count == 0:
        return
    flat = weight.view(-1)
    magnitude = flat.abs()
    threshold = magnitude.kthvalue(count).values
    below = magnitude < threshold
    ties = (magnitude == threshold).nonzero().squeeze(1)
    flat[below] = 0
    flat[ties[: count - int(below.sum())]] = 0
