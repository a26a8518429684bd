"""Masks of layers: of what a trained model keeps when it is pruned, drawn anew, and applied to a model.

A mask says that a subnetwork is special only if a random one with the same share of weights in each layer does worse (arXiv 2009.08576).
"""

import torch
from torch import nn

from lottery.common import hashing
from lottery.common.errors import LotteryError
from lottery.models.blocks import prunable
from lottery.pruning.prune import prune
from lottery.pruning.variants import Variant

Masks = dict[str, torch.Tensor]  # of linear layers by their full names: True where a weight is kept

SCOPES = {"layer": "magnitude", "global": "magnitude-global"}


@torch.no_grad()
def mask_of(model: nn.Module, sparsity: float, scope: str) -> Masks:
    """Return which weights are kept when a trained model is pruned by magnitude; the model is left as it is.

    Weights that are already zero go first, so the masks of rising sparsity are nested.

    Args:
        model: A trained model.
        sparsity: Share of the weights to prune.
        scope: 'layer' prunes within each layer, 'global' over the whole model.

    Returns:
        The mask of each layer, by its full name.

    Raises:
        LotteryError: A layer would keep nothing.
    """
    layers = prunable(model)
    before = {name: layer.weight.detach().clone() for name, layer in layers.items()}
    try:
        prune(model, Variant(SCOPES[scope], "uniform", "unstructured", sparsity))
        masks = {name: layer.weight != 0 for name, layer in layers.items()}
    finally:
        for name, layer in layers.items():
            layer.weight.copy_(before[name])
    empty = [name for name, mask in masks.items() if not mask.any()]
    if empty:
        raise LotteryError(
            f"a sparsity of {sparsity:.3g} leaves nothing of {', '.join(empty)}; take fewer levels, a smaller prune_fraction, or scope:"
            " layer"
        )
    return masks


def random_mask(masks: Masks, seed: int) -> Masks:
    """Draw as many weights of each layer anew: this shows what the layer-wise sparsity alone is worth."""
    return {name: _shuffled(mask.flatten(), _draw("random mask", seed, name)).view_as(mask) for name, mask in masks.items()}


def shuffled_mask(masks: Masks, seed: int) -> Masks:
    """Shuffle the rows and the columns of each layer's mask.

    Every neuron's number of weights occurs again, but elsewhere.
    """
    found = {}
    for name, mask in masks.items():
        draw = _draw("shuffled mask", seed, name)
        rows, columns = (torch.randperm(length, generator=draw).to(mask.device) for length in mask.shape)
        found[name] = mask[rows][:, columns]
    return found


def _draw(what: str, seed: int, layer: str) -> torch.Generator:
    """Return a generator of its own for each purpose, seed and layer, so that neither they nor the initialisation share random numbers."""
    return torch.Generator().manual_seed(hashing.seed(f"{what} {seed} {layer}"))


def _shuffled(values: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
    return values[torch.randperm(len(values), generator=draw).to(values.device)]


@torch.no_grad()
def apply_masks(model: nn.Module, masks: Masks) -> list[tuple[nn.Parameter, torch.Tensor]]:
    """Set the weights that are not kept to zero.

    Args:
        model: The model, changed in place.
        masks: Which weights are kept.

    Returns:
        Each masked weight with its mask.

    Raises:
        LotteryError: A mask has no layer, or another shape than its layer.
    """
    parameters, masked = dict(model.named_parameters()), []
    for name, mask in masks.items():
        weight = parameters.get(f"{name}.weight")
        if weight is None or weight.shape != mask.shape:
            raise LotteryError(
                f"mask of {name}: given {tuple(mask.shape)}; the model has {'no such layer' if weight is None else tuple(weight.shape)}"
            )
        weight.masked_fill_(~mask.to(weight.device), 0.0)
        masked.append((weight, mask.to(weight.device)))
    return masked


def nonzero_outside(model: nn.Module, masks: Masks) -> int:
    """Count the weights that a mask does not keep and that are not exactly zero, to the bit."""
    layers = prunable(model)
    return sum(int(layers[name].weight.detach()[~mask].count_nonzero()) for name, mask in masks.items())
