"""How a model calls its blocks, learned from the model itself, so that blocks can be called one by one and no family is named."""

from collections.abc import Callable, Iterable
from contextlib import contextmanager
from typing import NamedTuple

import torch
from accelerate.utils import send_to_device
from torch import nn

from lottery.common.errors import ImpossibleTrialError


class Call(NamedTuple):
    """How a model calls a block, without the hidden states.

    Attributes:
        keyword: The name under which the hidden states are passed; ``None`` if they come first.
        arguments: The other positional arguments.
        keywords: The other keyword arguments.
    """

    keyword: str | None
    arguments: tuple
    keywords: dict

    def output(self, block: nn.Module, state: torch.Tensor):
        """Return the block's output for hidden states [batch, tokens, hidden], called as its model calls it."""
        if self.keyword:
            return block(*self.arguments, **{self.keyword: state}, **self.keywords)
        return block(state, *self.arguments, **self.keywords)

    def state(self, block: nn.Module, state: torch.Tensor) -> torch.Tensor:
        """Return the hidden states behind the block."""
        output = self.output(block, state)
        return output[0] if isinstance(output, tuple) else output


class _Stop(Exception):
    pass


@contextmanager
def moved(modules: Iterable[nn.Module], device: torch.device | None):
    """Move modules to a device for a while, then back where they were; ``None`` leaves them alone."""
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
    """Batches in front of the first block.

    Attributes:
        states: Hidden states of each batch, [batch, length, hidden].
        calls: For each batch, how each block is called with it.
        in_tuple: Whether blocks return their hidden states in a tuple.
    """

    states: list[torch.Tensor]
    calls: list[list[Call]]
    in_tuple: bool


def entered(model: nn.Module, chain: nn.ModuleList, batches: Iterable[torch.Tensor], device: torch.device | None = None) -> Entered:
    """Pass batches of tokens through the model up to its first block, on the embedding's device. Batches of one shape share their calls.

    Args:
        model: A decoder.
        chain: Its blocks.
        batches: Tokens, [batch, length] each.
        device: Where the first block is called once to see what it returns; ``None`` leaves it where it is.

    Returns:
        The hidden states of each batch, and how the blocks are called with them.

    Raises:
        ImpossibleTrialError: Blocks are called with more that depends on the tokens than the hidden states.
    """
    states, calls, in_tuple = [], {}, None
    for tokens in batches:
        tokens = tokens.to(model.get_input_embeddings().weight.device)
        state, call = entering(model, chain, tokens)
        if in_tuple is None:
            in_tuple = _answers_in_tuple(chain[0], state, call, device)
            calls[state.shape] = learned(model, chain, tokens, in_tuple)
            others = (tokens + 1) % model.get_input_embeddings().weight.shape[0]
            _check_independent(model, calls[state.shape], learned(model, chain, others, in_tuple))
        if state.shape not in calls:
            calls[state.shape] = learned(model, chain, tokens, in_tuple)
        states.append(state)
    return Entered(states, [calls[state.shape] for state in states], in_tuple)


def _check_independent(model: nn.Module, calls: list[Call], of_others: list[Call]) -> None:
    """Check that blocks get nothing beside the hidden states that other tokens change, or that one block could fill for another.

    Raises:
        ImpossibleTrialError: They do.
    """
    for one, other in zip(calls, of_others, strict=True):
        if not _same([*one.arguments, *one.keywords.values()], [*other.arguments, *other.keywords.values()]):
            raise ImpossibleTrialError(
                f"{type(model).__name__} gives its blocks more than their input that hangs on the tokens or on blocks before, so they"
                " cannot be called one by one: only without calibration text can it be pruned (methods: [magnitude]), with memory: resident"
            )


def _same(one, other) -> bool:
    """Return whether two arguments are equal, with everything in them. A mapping without entries is there to be filled, so it never is."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.shape == other.shape and torch.equal(one, other)
    if isinstance(one, dict):
        return bool(one) and isinstance(other, dict) and list(one) == list(other) and _same([*one.values()], [*other.values()])
    if isinstance(one, tuple | list):
        return isinstance(other, tuple | list) and len(one) == len(other) and all(map(_same, one, other))
    return type(one) is type(other) and (one == other or not isinstance(one, int | float | str))


def _answers_in_tuple(block: nn.Module, state: torch.Tensor, call: Call, device: torch.device | None) -> bool:
    with moved([block], device):
        state, call = send_to_device((state, call), next(block.parameters()).device)
        return isinstance(call.output(block, state), tuple)


def entering(model: nn.Module, chain: nn.ModuleList, tokens: torch.Tensor) -> tuple[torch.Tensor, Call]:
    """Return the hidden states that enter the first block for ``tokens`` [batch, length], and how that block is called."""
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
    """Learn how each block is called for tokens of this shape.

    Without padding, a block is called with the same masks and positions for all tokens of one shape. One run of the trunk records them,
    with every block replaced by one that passes its input on.

    Args:
        model: A decoder.
        chain: Its blocks.
        tokens: Any tokens of the shape, [batch, length].
        in_tuple: Whether blocks return their hidden states in a tuple.

    Returns:
        One call per block.
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
    """Return what the trunk makes of the hidden states behind the last block: its final norm, whatever that is."""
    given = (state,) if in_tuple else state
    with replaced(chain, lambda *_, **__: given):
        return model.base_model(inputs_embeds=state, use_cache=False).last_hidden_state


@contextmanager
def replaced(modules, forward: Callable):
    """Replace the modules' ``forward`` for a while."""
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
