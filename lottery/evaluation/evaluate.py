"""A model scored on windows of a text: it is on its device as a whole, or its blocks wait in main memory and are streamed there."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from accelerate.utils import send_to_device
from torch import nn

from lottery.evaluation.likelihood import Head, Likelihoods, likelihoods
from lottery.models.blocks import blocks
from lottery.models.calls import entered, leaving, moved

Progress = Callable[[int, int], None] | None


@torch.no_grad()
def evaluate(
    model: nn.Module, tokens: np.ndarray, batch_size: int = 1, dense: torch.Tensor | None = None, keep: bool = False,
    device: torch.device | None = None, progress: Progress = None,
) -> tuple[Likelihoods, torch.Tensor | None]:  # fmt: skip
    """Likelihoods of each window, and with ``keep`` the hidden states in front of the head [windows, window, hidden], in main memory.

    **Arguments**: a causal language model; ``tokens``, int64 [windows, window]; ``batch_size`` windows at a time (speed and memory
    only, never the result: there is no padding); ``dense``, what this function kept of the dense model; without it the model is compared
    with itself; ``device``, to which blocks are streamed, one at a time (default: they stay where they are); ``progress``, called
    with the numbers of windows done and of all, or of blocks if they are streamed.

    A block that is streamed is moved once and all windows pass it, so their hidden states wait in main memory, too. What is computed is
    the same, call by call.
    """
    batches = torch.from_numpy(tokens).split(batch_size)
    head, found, kept = Head(model), [], None
    hidden_states = _streamed(model, batches, device, progress) if device else _resident(model, batches, progress)
    for batch, hidden in zip(batches, hidden_states, strict=True):
        at = slice(done := sum(len(part.nll) for part in found), done + len(batch))
        variants = [[hidden]] if dense is None else [[dense[at].to(hidden)], [hidden]]
        found.append(likelihoods(head, variants, [batch.to(hidden.device)])[-1])
        if keep:
            kept = torch.empty(len(tokens), *hidden.shape[1:], dtype=hidden.dtype) if kept is None else kept
            kept[at] = hidden.cpu()
    return Likelihoods.joined(found), kept


def _resident(model: nn.Module, batches: tuple[torch.Tensor, ...], progress: Progress) -> Iterator[torch.Tensor]:
    """The hidden states in front of the head, batch by batch."""
    device, done, windows = model.get_input_embeddings().weight.device, 0, sum(map(len, batches))
    for batch in batches:
        yield model.base_model(input_ids=batch.to(device), use_cache=False).last_hidden_state
        done += len(batch)
        if progress:
            progress(done, windows)


def _streamed(model: nn.Module, batches: tuple[torch.Tensor, ...], device: torch.device, progress: Progress) -> Iterator[torch.Tensor]:
    """The same, block by block. While it hands them out, what lies behind the blocks, the head among it, is on the device."""
    chain = blocks(model)
    states, calls, in_tuple = entered(model, chain, batches, device)
    for index, block in enumerate(chain):
        with moved([block], device):
            there = {id(of): send_to_device(of[index], device) for of in calls}
            for i, (state, of) in enumerate(zip(states, calls, strict=True)):
                states[i] = there[id(of)].state(block, state.to(device)).cpu()
        if progress:
            progress(index + 1, len(chain))
    inside = {id(module) for module in (*model.get_input_embeddings().modules(), *chain.modules())}
    behind = [module for module in model.modules() if not list(module.children()) and id(module) not in inside]
    with moved(behind, device):
        while states:
            yield leaving(model, chain, states.pop(0).to(device), in_tuple)
