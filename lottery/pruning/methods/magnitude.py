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
