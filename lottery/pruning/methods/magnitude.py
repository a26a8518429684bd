"""Magnitude pruning: the smallest weights go (Han et al. 2015, arXiv 1506.02626)."""

import torch

from lottery.pruning.layer_spec import LayerSpec, prune_lowest_
from lottery.pruning.registry import method
from lottery.pruning.selection import magnitude_chunks, zero_lowest_

HAN = "Han et al. 2015, arXiv 1506.02626"


@method("magnitude", "prunes the smallest weights of each layer", HAN)
def magnitude_(weight: torch.Tensor, spec: LayerSpec, inputs: None = None) -> None:
    """The smallest of the layer go, or with N:M the smallest of every group."""
    prune_lowest_(weight, None, spec, comparison_group="layer")


@method("magnitude-global", "prunes the smallest weights of all layers together", HAN, whole_model=True)
def magnitude_global_(weights: dict[str, torch.Tensor], sparsity: float) -> None:
    """The smallest of all layers together go: exactly round(sparsity · n) zeros in the model, however they fall to its layers.

    The tensors are read where they lie, a part at a time; nothing of the size of a layer is allocated.
    """
    total = sum(weight.numel() for weight in weights.values())
    zero_lowest_(magnitude_chunks(*weights.values()), round(sparsity * total), "the model")


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
    if weight.numel():
        zero_lowest_(magnitude_chunks(weight), count, name)
