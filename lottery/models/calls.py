"""How a model calls its blocks, learned from the model itself, so that blocks can be called one by one and no family is named."""

from collections.abc import Callable, Iterable
from contextlib import contextmanager
from typing import NamedTuple

import torch
from accelerate.utils import send_to_device
from torch import nn


class Call(NamedTuple):
    """How a model calls a block, but for the hidden states: they come first, or by this name."""

    keyword: str | None
    arguments: tuple
    keywords: dict

    def output(self, block: nn.Module, state: torch.Tensor):
        """What the block returns for hidden states [batch, tokens, hidden], called as its model calls it."""
        if self.keyword:
            return block(*self.arguments, **{self.keyword: state}, **self.keywords)
        return block(state, *self.arguments, **self.keywords)

    def state(self, block: nn.Module, state: torch.Tensor) -> torch.Tensor:
        """The hidden states behind the block."""
        output = self.output(block, state)
        return output[0] if isinstance(output, tuple) else output


class _Stop(Exception):
    pass


@contextmanager
def moved(modules: Iterable[nn.Module], device: torch.device | None):
    """The modules on a device for a while, and back where they were; ``None`` leaves them alone."""
    tensors = [(module, next(iter([*module.parameters(), *module.buffers()]), None)) for module in modules if device]
    homes = [(module, tensor.device) for module, tensor in tensors if tensor is not None]
    try:
        for module, _ in homes:
            module.to(device)
        yield
    finally:
        for module, home in homes:
            module.to(home)


class Entered(NamedTuple):
    """Batches in front of the first block: of each its hidden states [batch, length, hidden] and how each block is called with them;
    ``in_tuple``, whether blocks return their hidden states in a tuple."""

    states: list[torch.Tensor]
    calls: list[list[Call]]
    in_tuple: bool


def entered(model: nn.Module, chain: nn.ModuleList, batches: Iterable[torch.Tensor], device: torch.device | None = None) -> Entered:
    """Takes batches of tokens [batch, length] up to the first block, where the embedding is. Batches of one shape share their calls.

    ``device``: where the first block is called once, to see what it returns (default: where it is).
    """
    states, calls, in_tuple = [], {}, None
    for tokens in batches:
        tokens = tokens.to(model.get_input_embeddings().weight.device)
        state, call = entering(model, chain, tokens)
        if in_tuple is None:
            in_tuple = _answers_in_tuple(chain[0], state, call, device)
        if state.shape not in calls:
            calls[state.shape] = learned(model, chain, tokens, in_tuple)
        states.append(state)
    return Entered(states, [calls[state.shape] for state in states], in_tuple)


def _answers_in_tuple(block: nn.Module, state: torch.Tensor, call: Call, device: torch.device | None) -> bool:
    with moved([block], device):
        state, call = send_to_device((state, call), next(block.parameters()).device)
        return isinstance(call.output(block, state), tuple)


def entering(model: nn.Module, chain: nn.ModuleList, tokens: torch.Tensor) -> tuple[torch.Tensor, Call]:
    """The hidden states that enter the first block for ``tokens`` [batch, length], and how that block is called."""
    found = []

    def stop(*arguments, **keywords):
        found.append(_split(arguments, keywords))
        raise _Stop

    with replaced(chain[:1], stop):
        try:
            model.base_model(input_ids=tokens, use_cache=False)  # the trunk: nobody needs logits
        except _Stop:
            return found[0]
    raise AssertionError("the model's trunk never called its first block")


def learned(model: nn.Module, chain: nn.ModuleList, tokens: torch.Tensor, in_tuple: bool) -> list[Call]:
    """How each block is called for tokens of this shape; ``in_tuple``, whether blocks return their hidden states in a tuple.

    Without padding a block is called with the same masks and positions for all tokens of one shape. They are learned by running the
    trunk once with every block replaced by one that passes its input on.
    """
    calls = []

    def pass_on(*arguments, **keywords):
        state, call = _split(arguments, keywords)
        calls.append(call)
        return (state,) if in_tuple else state

    with replaced(chain, pass_on):
        model.base_model(input_ids=tokens, use_cache=False)
    return calls


def leaving(model: nn.Module, chain: nn.ModuleList, state: torch.Tensor, in_tuple: bool) -> torch.Tensor:
    """What the trunk makes of the hidden states behind the last block: its final norm, whatever that is."""
    given = (state,) if in_tuple else state
    with replaced(chain, lambda *_, **__: given):
        return model.base_model(inputs_embeds=state, use_cache=False).last_hidden_state


@contextmanager
def replaced(modules, forward: Callable):
    """The modules' ``forward`` replaced for a while."""
    before = [module.__dict__.get("forward") for module in modules]  # a hook, as accelerate sets it, or nothing
    for module in modules:
        module.forward = forward
    try:
        yield
    finally:
        for module, own in zip(modules, before, strict=True):
            if own is None:
                del module.forward
            else:
                module.forward = own


def _split(arguments: tuple, keywords: dict) -> tuple[torch.Tensor, Call]:
    keywords = dict(keywords)
    if arguments:
        return arguments[0], Call(None, arguments[1:], keywords)
    return keywords.pop("hidden_states"), Call("hidden_states", (), keywords)
