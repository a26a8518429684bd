"""Pruning: which weights go. Methods and allocations are functions of tensors; ``prune`` is the one that knows a model."""

from pkgutil import resolve_name

import torch

from lottery.errors import LotteryError
from lottery.methods import ALLOCATIONS, METHODS, Pattern, Variant
from lottery.pruning.cut import Cut
from lottery.pruning.magnitude import zero_smallest_
from lottery.pruning.scope import Sparsity, count_zeros, prunable
from lottery.pruning.walk import Layer, walk

__all__ = ["Sparsity", "check_pattern", "count_zeros", "prunable", "prune", "walk", "zero_smallest_"]


@torch.no_grad()
def prune(model, variant: Variant, samples: torch.Tensor | None = None, *, seed: int = 0, device=None, progress=None) -> None:
    """Prunes the linear layers inside the blocks, in place, keeping no mask and no copy.

    **Arguments**: a dense model; the variant (method, allocation, pattern, sparsity; 'dense' does nothing); ``samples``, calibration
    tokens [samples, length], for variants that need them; ``seed`` for methods that draw; ``device``, where blocks are worked on
    (default: where they are); ``progress``, called with the number of blocks done and of all.

    **Raises** ``LotteryError`` where a target cannot be met, samples are missing, or weights or inputs are not finite.
    """
    if variant.method == "dense":
        return
    if variant.calibrated and samples is None:
        raise LotteryError(f"{variant.label} needs calibration samples, and none were given")
    layers, method = prunable(model), METHODS[variant.method]
    weights = {name: layer.weight.data for name, layer in layers.items()}
    _check_dense(weights, variant.sparsity)
    if method.whole_model:
        resolve_name(method.function)(weights, variant.sparsity)
        return
    walking = {"device": device, "progress": progress}
    allocate = ALLOCATIONS[variant.allocation].function
    cuts = cuts_of(model, variant, seed, resolve_name(allocate)(model, variant.sparsity, samples, **walking) if allocate else None)
    for name, weight in weights.items():  # all of them before any work
        cuts[name].check(weight)
    if method.needs == "nothing":
        prune_layers_(variant, cuts, layers)
    else:
        walk(model, samples, lambda _, fed: prune_fed_(variant, cuts, fed), gram=method.needs == "products", **walking)


def cuts_of(model, variant: Variant, seed: int, shares: dict[str, float] | None = None) -> dict[str, Cut]:
    """What is to be cut from each layer, by its full name; ``shares`` of an allocation, or the variant's sparsity everywhere."""
    pattern = Pattern.parse(variant.pattern)
    return {name: Cut(name, shares[name] if shares else variant.sparsity, pattern, seed) for name in prunable(model)}


def prune_layers_(variant: Variant, cuts: dict[str, Cut], layers: dict[str, torch.nn.Linear]) -> None:
    """Prunes layers by a method that looks at their weights only."""
    function = resolve_name(METHODS[variant.method].function)
    for name, layer in layers.items():
        function(layer.weight.data, cuts[name])


def prune_fed_(variant: Variant, cuts: dict[str, Cut], fed: list[Layer]) -> None:
    """Prunes the layers of a block by a method that looks at their inputs too."""
    function = resolve_name(METHODS[variant.method].function)
    for layer in fed:
        function(layer.linear.weight.data, cuts[layer.name], layer.inputs)


def check_pattern(model, variant: Variant) -> None:
    """**Raises** ``LotteryError`` where the variant's N:M does not divide a layer's rows; looks at shapes only, so a skeleton will do."""
    for name, layer in prunable(model).items():
        Cut(name, variant.sparsity, Pattern.parse(variant.pattern)).check(layer.weight)


def _check_dense(weights: dict[str, torch.Tensor], sparsity: float) -> None:
    """A target below what is zero already cannot be met, and the method would not be to blame for what is missing.

    Over all layers together: in a checkpoint that was rounded to 4 bits a fifth of a single layer may be zero, and is no sign of pruning.
    """
    total = sum(weight.numel() for weight in weights.values())
    zeros = total - sum(int(torch.count_nonzero(weight)) for weight in weights.values())
    if zeros > round(sparsity * total):
        raise LotteryError(
            f"the model: {zeros / total:.1%} of the weights are zero already, more than the {sparsity:.1%} asked for; give a dense"
            " checkpoint"
        )
