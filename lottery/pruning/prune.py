"""Pruning: which weights go. Methods and allocations are functions of tensors; only ``prune`` knows a model."""

import torch
from torch import nn

from lottery.common.errors import ImpossibleTrialError, LotteryError
from lottery.models.blocks import blocks, by_block, prunable
from lottery.models.calls import moved
from lottery.pruning.catalogue import ALLOCATIONS, METHODS
from lottery.pruning.layer_spec import LayerSpec
from lottery.pruning.pattern import Pattern
from lottery.pruning.variants import Variant
from lottery.pruning.walk import Layer, walk

Measured = dict[str, list[float]] | None


@torch.no_grad()
def prune(
    model, variant: Variant, samples: torch.Tensor | None = None, *, seed: int = 0, device=None, progress=None, measured: Measured = None
) -> None:
    """Prune the linear layers inside the blocks, in place, keeping no mask and no copy.

    Args:
        model: A dense model.
        variant: Method, allocation, pattern and sparsity; one that no method prunes leaves the model as it is. How it is retrained or
            rounded is not looked at: that comes afterwards.
        samples: Calibration tokens [samples, length], for variants that need them.
        seed: Seed for methods that draw.
        device: Where blocks are worked on; ``None`` leaves them where they are.
        progress: Called with the number of blocks done and of all blocks, by each walk over the samples: one for the method, one for the
            allocation, where they need any.
        measured: As for ``allocated``.

    Raises:
        LotteryError: A target cannot be met, samples are missing, or weights or inputs are not finite, or what the method makes of them.
    """
    if not variant.one_shot:
        return
    if variant.calibrated and samples is None:
        raise LotteryError(f"{variant.label} needs calibration samples, and none were given")
    method, layers = METHODS[variant.method], prunable(model)
    _check_dense(layers, variant.sparsity)
    if method.whole_model:
        method.function({name: layer.weight.data for name, layer in layers.items()}, variant.sparsity)
        return
    walking = {"device": device, "progress": progress}
    sparsities = allocated(model, variant.allocation, variant.sparsity, samples, measured=measured, **walking)
    pattern = Pattern.parse(variant.pattern)
    specs = {name: LayerSpec(name, sparsities[name], pattern, seed) for name in layers}
    for name, layer in layers.items():  # all of them before any work
        specs[name].check(layer.weight)
    if not method.calibrated:
        for block, within in zip(blocks(model), by_block(model), strict=True):
            with moved([block], device):
                for name, layer in within.items():
                    method.function(layer.weight.data, specs[name])
        return

    def visit(_, fed: list[Layer]) -> None:
        for layer in fed:
            method.function(layer.linear.weight.data, specs[layer.name], layer.inputs)
            if not torch.isfinite(layer.linear.weight).all():
                raise ImpossibleTrialError(
                    f"{layer.name}: {variant.method} left weights that are not finite; take more calibration samples, or dtype: float32"
                )

    walk(model, samples, visit, gram=method.needs == "hessian", **walking)


def allocated(
    model, allocation: str, sparsity: float, samples: torch.Tensor | None = None, *, measured: Measured = None, **walking
) -> dict[str, float]:
    """Return each layer's sparsity, which is that of its block.

    Args:
        model: The dense model.
        allocation: The allocation's name.
        sparsity: The target, which is met by the mean over all weights.
        samples: Calibration tokens [samples, length], for allocations that need them.
        measured: What allocations have measured of this dense model with these samples: they take it from here and put it here, so that
            several variants measure once.
        **walking: ``device`` and ``progress``, as for ``walk``.

    Raises:
        ImpossibleTrialError: A block's sparsity is outside [0, 1): the target cannot be met.
    """
    found, measured = ALLOCATIONS[allocation], {} if measured is None else measured
    if found.measure and allocation not in measured:
        measured[allocation] = found.measure(model, samples, **walking)
    layers = by_block(model)
    weights = [sum(layer.weight.numel() for layer in within.values()) for within in layers]
    wanted = found.function(sparsity, measured.get(allocation), weights)
    for index, one in enumerate(wanted):
        if not 0 <= one < 1:
            raise ImpossibleTrialError(
                f"allocation: {allocation} at sparsity {sparsity:g} would take {100 * one:.1f}% of block {index}, allowed: 0% to below"
                " 100%; ask for less sparsity, or take allocation: uniform"
            )
    return {name: one for within, one in zip(layers, wanted, strict=True) for name in within}


def check_pattern(model, variant: Variant) -> None:
    """Check that the variant's N:M pattern fits every layer; it looks at shapes only, so a skeleton will do.

    Raises:
        LotteryError: The pattern does not divide a layer's rows.
    """
    for name, layer in prunable(model).items():
        LayerSpec(name, variant.sparsity, Pattern.parse(variant.pattern)).check(layer.weight)


def _check_dense(layers: dict[str, nn.Linear], sparsity: float) -> None:
    """Raise ``ImpossibleTrialError`` if the layers already have more zeros than requested.

    It counts all layers together: rounding to 4 bits can zero a fifth of a single layer, which is no sign of pruning.
    """
    total = sum(layer.weight.numel() for layer in layers.values())
    zeros = total - sum(int(torch.count_nonzero(layer.weight)) for layer in layers.values())
    if zeros > round(sparsity * total):
        raise ImpossibleTrialError(
            f"the model: {zeros / total:.1%} of the weights are zero already, more than the {sparsity:.1%} asked for; give a dense"
            " checkpoint"
        )
