"""The walk over a model's blocks that every method with calibration data takes.

Block by block: measure what its linear layers are fed, let them be pruned, then pass the samples through what is left of the block,
so that each block is judged by what the pruned blocks before it really give. No model family is named: how a model calls its
blocks is learned from the model itself.
"""

from collections.abc import Callable
from contextlib import contextmanager
from typing import NamedTuple

import torch
from accelerate.utils import send_to_device
from torch import nn

from lottery.pruning.inputs import Inputs
from lottery.pruning.scope import blocks, by_block


class Layer(NamedTuple):
    """A linear layer in a block, and what it was fed; layers that are fed the same tensor share their inputs."""

    name: str
    linear: nn.Linear
    inputs: Inputs


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
    hidden, calls = _first_inputs(model, chain, samples, device)
    for index, block in enumerate(chain):
        home = next(block.parameters()).device
        there = device or home
        block.to(there)
        call = send_to_device(calls[index], there)
        visit(index, _measured(block, layers[index], hidden, call, there, gram))
        if index + 1 < len(chain):
            for i, state in enumerate(hidden):
                output = _output(block, state.to(there), call)
                hidden[i] = (output[0] if isinstance(output, tuple) else output).to(state.device)
        block.to(home)
        if progress:
            progress(index + 1, len(chain))


class _Call(NamedTuple):
    """How a model calls a block, but for the hidden states: they come first, or by this name."""

    keyword: str | None
    arguments: tuple
    keywords: dict


class _Stop(Exception):
    pass


def _call_of(arguments: tuple, keywords: dict) -> tuple[torch.Tensor, _Call]:
    keywords = dict(keywords)
    if arguments:
        return arguments[0], _Call(None, arguments[1:], keywords)
    return keywords.pop("hidden_states"), _Call("hidden_states", (), keywords)


def _output(block: nn.Module, state: torch.Tensor, call: _Call):
    if call.keyword:
        return block(*call.arguments, **{call.keyword: state}, **call.keywords)
    return block(state, *call.arguments, **call.keywords)


def _first_inputs(model, chain, samples, there) -> tuple[list[torch.Tensor], list[_Call]]:
    """The hidden states that enter the first block, a tensor a sample, and how each block is called.

    Samples have one length and no padding, so a block is called with the same masks and positions for each of them. They are
    learned by running the model's trunk once with every block replaced by one that passes its input on.
    """
    samples = samples.to(model.get_input_embeddings().weight.device)
    hidden, calls = [], []

    def stop(*arguments, **keywords):
        hidden.append(_call_of(arguments, keywords))
        raise _Stop

    with _replaced(chain[:1], stop):
        for sample in samples:
            try:
                model.base_model(input_ids=sample[None], use_cache=False)  # the trunk: nobody needs logits
            except _Stop:
                continue
    home = next(chain[0].parameters()).device
    state, call = hidden[0]
    chain[0].to(there or home)
    in_tuple = isinstance(_output(chain[0], state.to(there or home), send_to_device(call, there or home)), tuple)
    chain[0].to(home)

    def pass_on(*arguments, **keywords):
        state, call = _call_of(arguments, keywords)
        calls.append(call)
        return (state,) if in_tuple else state

    with _replaced(chain, pass_on):
        model.base_model(input_ids=samples[:1], use_cache=False)
    return [state for state, _ in hidden], calls


@contextmanager
def _replaced(chain, forward: Callable):
    """The blocks' own ``forward`` replaced for a while."""
    for block in chain:
        block.forward = forward
    try:
        yield
    finally:
        for block in chain:
            del block.forward


def _measured(block, linears: dict[str, nn.Linear], hidden, call, there, gram: bool) -> list[Layer]:
    """Runs the samples through a block and measures what its layers are fed; what feeds several is measured once."""
    found: dict[str, Inputs] = {}
    mine: set[str] = set()  # layers that measure; the others share
    seen: list[tuple[torch.Tensor, Inputs]] = []

    def hook(name: str):
        def measure(linear, arguments):
            x = arguments[0]
            if name not in found:  # the first sample: which layers are fed the same tensor?
                found[name] = next((inputs for other, inputs in seen if other is x), None) or Inputs(x.shape[-1], x.device, gram=gram)
                if all(found[name] is not inputs for _, inputs in seen):
                    mine.add(name)
                    seen.append((x, found[name]))
            if name in mine:
                found[name].add(x)

        return measure

    hooks = [linear.register_forward_pre_hook(hook(name)) for name, linear in linears.items()]
    try:
        for state in hidden:
            _output(block, state.to(there), call)
            seen.clear()
    finally:
        for handle in hooks:
            handle.remove()
    layers = [Layer(name, linear, found.get(name) or Inputs(linear.in_features, there)) for name, linear in linears.items()]
    for layer in layers:
        layer.inputs.check(layer.name)
    return layers
