"""Score a model on windows of a text: it is whole on its device, or its blocks wait in main memory and are streamed there."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from accelerate.utils import send_to_device
from torch import nn

from lottery.common.errors import ImpossibleTrialError, LotteryError
from lottery.evaluation.likelihood import Head, Likelihoods, likelihoods
from lottery.models.blocks import blocks
from lottery.models.calls import entered, leaving, moved

Progress = Callable[[int, int], None] | None


@torch.no_grad()
def evaluate(
    model: nn.Module, tokens: np.ndarray, batch_size: int = 1, dense: torch.Tensor | None = None, keep: bool = False,
    device: torch.device | None = None, progress: Progress = None,
) -> tuple[Likelihoods, torch.Tensor | None]:  # fmt: skip
    """Compute the likelihoods of each window.

    A streamed block is moved once and all windows pass it, so their hidden states wait in main memory too. The computation is the same,
    call by call.

    Args:
        model: A causal language model.
        tokens: Tokens, int64 [windows, window].
        batch_size: Windows at a time. It changes speed and memory only, never the result: there is no padding.
        dense: What this function kept of the dense model; without it the model is compared with itself.
        keep: Whether to keep the hidden states in front of the head.
        device: Where blocks are streamed to, one at a time; ``None`` leaves them where they are.
        progress: Called with the number of windows done and of all windows, or with numbers of blocks if they are streamed.

    Returns:
        The likelihoods, and with ``keep`` the hidden states [windows, window, hidden] in main memory, else ``None``.
    """
    batches = torch.from_numpy(tokens).split(batch_size)
    head, found, kept = Head(model), [], None
    hidden_states = _streamed(model, batches, device, progress) if device else _resident(model, batches, progress)
    for batch, hidden in zip(batches, hidden_states, strict=True):
        at = slice(done := sum(len(part.nll) for part in found), done + len(batch))
        found.append(likelihoods(head, hidden, batch.to(hidden.device), None if dense is None else dense[at].to(hidden)))
        if keep:
            kept = torch.empty(len(tokens), *hidden.shape[1:], dtype=hidden.dtype) if kept is None else kept
            kept[at] = hidden.cpu()
    return Likelihoods.joined(found), kept


def _resident(model: nn.Module, batches: tuple[torch.Tensor, ...], progress: Progress) -> Iterator[torch.Tensor]:
    """Yield the hidden states in front of the head, batch by batch."""
    device, done, windows = model.get_input_embeddings().weight.device, 0, sum(map(len, batches))
    for batch in batches:
        yield model.base_model(input_ids=batch.to(device), use_cache=False).last_hidden_state
        done += len(batch)
        if progress:
            progress(done, windows)


def _streamed(model: nn.Module, batches: tuple[torch.Tensor, ...], device: torch.device, progress: Progress) -> Iterator[torch.Tensor]:
    """Yield the same, computed block by block. While it yields, the modules after the blocks are on the device, including the head."""
    chain = blocks(model)
    try:
        states, calls, in_tuple = entered(model, chain, batches, device)
    except ImpossibleTrialError as error:  # with more memory it can be scored as a whole
        raise LotteryError(str(error)) from error
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
