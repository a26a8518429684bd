"""Magnitude pruning: the smallest weights go (Han et al. 2015, arXiv 1506.02626)."""

import torch

from lottery.pruning.layer_spec import LayerSpec, prune_lowest_
from lottery.pruning.registry import method
from lottery.pruning.selection import magnitude_chunks, zero_lowest_

HAN = "Han et al. 2015, arXiv 1506.02626"


@method("magnitude", "prunes the smallest weights of each layer", HAN)
def magnitude_(weight: torch.Tensor, spec: LayerSpec, inputs: None = None) -> None:
    """Prune the smallest weights of the layer, or with N:M the smallest of every group."""
    prune_lowest_(weight, None, spec, comparison_group="layer")


@method("magnitude-global", "prunes the smallest weights of all layers together", HAN, whole_model=True)
def magnitude_global_(weights: dict[str, torch.Tensor], sparsity: float) -> None:
    """Prune the smallest weights of all layers together, however the zeros fall to the layers.

    The model gets exactly round(sparsity · n) zeros. The tensors are read where they lie, a part at a time; nothing of the size of a layer
    is allocated.
    """
    total = sum(weight.numel() for weight in weights.values())
    zero_lowest_(magnitude_chunks(*weights.values()), round(sparsity * total), "the model")


def zero_smallest_(weight: torch.Tensor, count: int, name: str = "weight") -> None:
    """Zero the ``count`` entries of smallest magnitude, in place.

    They are the same entries as those of ``torch.nn.utils.prune.l1_unstructured``, up to ties. Among equal magnitudes the first in memory
    go, so the result is the same on every run and device. Entries that are zero already are among the ``count``.

    Args:
        weight: Any shape, any floating dtype, contiguous.
        count: 0 to the number of entries.
        name: Name for errors.

    Raises:
        LotteryError: A weight is not finite.
        ValueError: The count is impossible, or the tensor is not contiguous.
    """
    if not 0 <= count <= weight.numel():
        raise ValueError(f"{name}: given count {count}; allowed: 0 to {weight.numel()}")
    if not weight.is_contiguous():
        raise ValueError(f"{name}: the tensor is not contiguous; call .contiguous() and prune that")
    if weight.numel():
        zero_lowest_(magnitude_chunks(weight), count, name)
