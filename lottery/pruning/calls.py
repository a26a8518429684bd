"""How a model calls its blocks, learned from the model itself, so that blocks can be called one by one and no family is named."""

from collections.abc import Callable
from contextlib import contextmanager
from typing import NamedTuple

import torch
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
