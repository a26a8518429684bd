"""The walk over a model's blocks that every method with calibration data takes.

Block by block: measure what its linear layers are fed, let them be pruned, then pass the samples through what is left of the block,
so that each block is judged by what the pruned blocks before it really give. No model family is named: how a model calls its
blocks is learned from the model itself.
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
    """A linear layer in a block, and what it was fed; layers that are fed the same tensor share their inputs."""

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
    device: torch.device | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Calls ``visit(index, layers)`` for every block in order; ``visit`` may change the layers' weights, and later blocks see it.

    **Arguments**: a decoder; ``samples``, int64 tokens [samples, length], all of one length; ``gram``, whether products of inputs
    are wanted besides squares; ``device``, where blocks are worked on (default: where they are): only the block at work is there;
    ``progress``, called with the number of blocks done and of all.

    **Raises** ``LotteryError`` where the model has no blocks, a layer is fed nothing, or what it is fed is not finite.
    """
    chain, layers = blocks(model), by_block(model)
    hidden, (calls, *_), _ = entered(model, chain, samples.split(1), device)
    for index, block in enumerate(chain):
        with moved([block], device):
            there = next(block.parameters()).device
            call = send_to_device(calls[index], there)
            visit(index, _measured(block, layers[index], hidden, call, there, gram))
            if index + 1 < len(chain):
                for i, state in enumerate(hidden):
                    hidden[i] = call.state(block, state.to(there)).to(state.device)
        if progress:
            progress(index + 1, len(chain))


def _measured(block, linears: dict[str, nn.Linear], hidden, call, there, gram: bool) -> list[Layer]:
    """Runs the samples through a block and measures what its layers are fed; what feeds several is measured once."""
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
        for state in hidden:
            call.output(block, state.to(there))
            seen.clear()
    finally:
        for handle in hooks:
            handle.remove()
    layers = [Layer(name, linear, found.get(name) or ActivationStats(linear.in_features, there)) for name, linear in linears.items()]
    for layer in layers:
        layer.inputs.check(layer.name)
    return layers
