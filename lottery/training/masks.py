"""The lottery ticket procedure: train, prune, rewind, train again, and the controls that make it a test.

Frankle and Carbin (arXiv 1803.03635) claim that a dense network contains a sparse one which, trained alone from its own
initialisation, does as well. Rewinding to an early step instead of to the initialisation is arXiv 1912.05671; that a random mask with
the same share of weights in each layer must do worse before anything can be said of the winning one is arXiv 2009.08576.
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
    """Which weights are kept when a trained model is pruned by magnitude, by layer or over the whole model; the model is left as it is.

    What is nought already goes first, so the masks of rising sparsity are nested.

    **Raises** ``LotteryError`` where a layer would keep nothing.
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
    """As many weights of each layer, drawn anew: what the layer-wise sparsity alone is worth."""
    return {name: _shuffled(mask.flatten(), _draw("random mask", seed, name)).view_as(mask) for name, mask in masks.items()}


def shuffled_mask(masks: Masks, seed: int) -> Masks:
    """The same masks with the rows and the columns of each layer in another order: every neuron's number of weights occurs again, but
    elsewhere."""
    found = {}
    for name, mask in masks.items():
        draw = _draw("shuffled mask", seed, name)
        rows, columns = (torch.randperm(length, generator=draw).to(mask.device) for length in mask.shape)
        found[name] = mask[rows][:, columns]
    return found


def _draw(what: str, seed: int, layer: str) -> torch.Generator:
    """A generator of its own for each purpose, seed and layer, so that no two of them, nor the initialisation, share their numbers."""
    return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(f"{what} {seed} {layer}".encode()).digest()[:8]) >> 1)


def _shuffled(values: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
    return values[torch.randperm(len(values), generator=draw).to(values.device)]


def moved(model: nn.Module, masks: Masks) -> int:
    """How many of the weights that a mask does not keep are not nought, to the bit."""
    layers = prunable(model)
    return sum(int(layers[name].weight.detach()[~mask].count_nonzero()) for name, mask in masks.items())
