"""The lottery ticket procedure: train, prune, rewind, train again, and the controls that make it a test.

Frankle and Carbin (arXiv 1803.03635) claim that a dense network contains a sparse one which, trained alone from its own initialisation,
does as well. Rewinding to an early step instead of to the initialisation is from arXiv 1912.05671. Before anything can be said of the
winning mask, a random mask with the same share of weights in each layer must do worse (arXiv 2009.08576).
"""

import hashlib

import torch
from torch import nn

from lottery.common.errors import LotteryError
from lottery.models.blocks import prunable
from lottery.pruning.prune import prune
from lottery.pruning.variants import Variant
from lottery.training.trainer import Masks

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
    return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(f"{what} {seed} {layer}".encode()).digest()[:8]) >> 1)


def _shuffled(values: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
    return values[torch.randperm(len(values), generator=draw).to(values.device)]


def moved(model: nn.Module, masks: Masks) -> int:
    """Count the weights that a mask does not keep and that are not exactly zero, to the bit."""
    layers = prunable(model)
    return sum(int(layers[name].weight.detach()[~mask].count_nonzero()) for name, mask in masks.items())
