"""The walk over a model's blocks that every method with calibration data takes.

For each block, the walk measures the inputs of its linear layers, has them pruned, then passes the samples through the pruned block. So
each block is judged by what the pruned blocks before it really give. No model family is named: how a model calls its blocks is learned from
the model itself.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from accelerate.utils import send_to_device
from torch import nn

from lottery.models.blocks import blocks, by_block
from lottery.models.calls import entered, moved
from lottery.pruning.activations import ActivationStats


class Layer(NamedTuple):
    """A linear layer in a block, and statistics of its inputs; layers that are fed the same tensor share them."""

    name: str
    linear: nn.Linear
    inputs: ActivationStats


@torch.no_grad()
def walk(
    model: nn.Module,
    samples: torch.Tensor,
    visit: Callable[[int, list[Layer]], None],
    *,
    gram: bool = False,
    changes: bool = True,
    device: torch.device | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Call ``visit(index, layers)`` for every block in order.

    Args:
        model: A decoder.
        samples: Calibration tokens, int64 [samples, length], all of one length.
        visit: May change the layers' weights; later blocks see the change.
        gram: Whether to measure products of inputs besides squares.
        changes: Whether ``visit`` changes weights. If not, each block runs once instead of twice.
        device: Where blocks are worked on, only one at a time; ``None`` leaves them where they are.
        progress: Called with the number of blocks done and of all blocks.

    Raises:
        LotteryError: The model has no blocks, a layer is fed nothing, or a layer's inputs are not finite.
    """
    chain, layers = blocks(model), by_block(model)
    hidden, (calls, *_), _ = entered(model, chain, samples.split(1), device)
    for index, block in enumerate(chain):
        with moved([block], device):
            there = next(block.parameters()).device
            call = send_to_device(calls[index], there)
            visit(index, _measured(block, layers[index], hidden, call, there, gram, pass_on=not changes))
            if changes and index + 1 < len(chain):
                for i, state in enumerate(hidden):
                    hidden[i] = call.state(block, state.to(there)).to(state.device)
        if progress:
            progress(index + 1, len(chain))


def _measured(block, linears: dict[str, nn.Linear], hidden, call, there, gram: bool, pass_on: bool) -> list[Layer]:
    """Run the samples through a block and measure the inputs of its layers; a tensor that feeds several layers is measured once.

    With ``pass_on``, the states behind the block take the place of those in front of it.
    """
    found: dict[str, ActivationStats] = {}
    mine: set[str] = set()  # layers that measure; the others share
    seen: list[tuple[torch.Tensor, ActivationStats]] = []

    def hook(name: str):
        def measure(linear, arguments):
            x = arguments[0]
            if name not in found:  # the first sample: which layers are fed the same tensor?
                found[name] = next((inputs for other, inputs in seen if other is x), None) or ActivationStats(
                    x.shape[-1], x.device, gram=gram
                )
                if all(found[name] is not inputs for _, inputs in seen):
                    mine.add(name)
                    seen.append((x, found[name]))
            if name in mine:
                found[name].add(x)

        return measure

    hooks = [linear.register_forward_pre_hook(hook(name)) for name, linear in linears.items()]
    try:
        for i, state in enumerate(hidden):
            behind = call.state(block, state.to(there))
            if pass_on:
                hidden[i] = behind.to(state.device)
            seen.clear()
    finally:
        for handle in hooks:
            handle.remove()
    layers = [Layer(name, linear, found.get(name) or ActivationStats(linear.in_features, there)) for name, linear in linears.items()]
    for layer in layers:
        layer.inputs.check(layer.name)
    return layers
