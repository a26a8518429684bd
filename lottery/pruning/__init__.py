"""Pruning: which weights go. Methods and allocations are functions of tensors; ``prune`` is the one that knows a model."""

from pkgutil import resolve_name

import torch

from lottery.errors import LotteryError
from lottery.methods import ALLOCATIONS, METHODS, Pattern, Variant
from lottery.pruning.cut import Cut
from lottery.pruning.magnitude import zero_smallest_
from lottery.pruning.scope import Sparsity, count_zeros, prunable
from lottery.pruning.walk import walk

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
    layers, method, pattern = prunable(model), METHODS[variant.method], Pattern.parse(variant.pattern)
    function, allocate = resolve_name(method.function), ALLOCATIONS[variant.allocation].function
    weights = {name: layer.weight.data for name, layer in layers.items()}
    if method.whole_model:
        _check_dense(weights, variant.sparsity)
        function(weights, variant.sparsity)
        return
    walking = {"device": device, "progress": progress}
    shares = resolve_name(allocate)(model, variant.sparsity, samples, **walking) if allocate else dict.fromkeys(layers, variant.sparsity)
    cuts = {name: Cut(name, shares[name], pattern, seed) for name in layers}
    for name, weight in weights.items():  # all of them before any work
        cuts[name].check(weight)
        _check_dense({name: weight}, shares[name])
    if method.needs == "nothing":
        for name, weight in weights.items():
            function(weight, cuts[name])
        return

    def visit(_, fed) -> None:
        for layer in fed:
            function(layer.linear.weight.data, cuts[layer.name], layer.inputs)

    walk(model, samples, visit, gram=method.needs == "products", **walking)


def check_pattern(model, variant: Variant) -> None:
    """**Raises** ``LotteryError`` where the variant's N:M does not divide a layer's rows; looks at shapes only, so a skeleton will do."""
    for name, layer in prunable(model).items():
        Cut(name, variant.sparsity, Pattern.parse(variant.pattern)).check(layer.weight)


def _check_dense(weights: dict[str, torch.Tensor], share: float) -> None:
    """A target below what is zero already cannot be met, and the method would not be to blame for what is missing."""
    total = sum(weight.numel() for weight in weights.values())
    zeros = total - sum(int(torch.count_nonzero(weight)) for weight in weights.values())
    if zeros > round(share * total):
        name = next(iter(weights)) if len(weights) == 1 else "the model"
        raise LotteryError(
            f"{name}: {zeros / total:.1%} of the weights are zero already, more than the {share:.1%} asked for; give a dense checkpoint"
        )
