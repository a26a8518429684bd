"""One variant of a model that is in memory as a whole, scored on windows of a text."""

import numpy as np
import torch
from torch import nn

from lottery.likelihood import Head, Likelihoods, likelihoods


@torch.inference_mode()
def evaluate(
    model: nn.Module, tokens: np.ndarray, batch_size: int = 1, dense: torch.Tensor | None = None, keep: bool = False, progress=None
) -> tuple[Likelihoods, torch.Tensor | None]:
    """Likelihoods of each window, and with ``keep`` the hidden states in front of the head [windows, window, hidden], in main memory.

    **Arguments**: a causal language model; ``tokens``, int64 [windows, window]; ``batch_size`` windows at a time (speed and memory
    only, never the result: there is no padding); ``dense``, what this function kept of the dense model; without it the model is compared
    with itself; ``progress``, called with the numbers of windows done and of all.
    """
    device, head = model.get_input_embeddings().weight.device, Head(model)
    found, kept = [], None
    for batch in torch.from_numpy(tokens).split(batch_size):
        at = slice(done := sum(len(part.nll) for part in found), done + len(batch))
        batch = batch.to(device)
        hidden = model.base_model(input_ids=batch, use_cache=False).last_hidden_state
        variants = [[hidden]] if dense is None else [[dense[at].to(device, hidden.dtype)], [hidden]]
        found.append(likelihoods(head, variants, [batch])[-1])
        if keep:
            kept = torch.empty(len(tokens), *hidden.shape[1:], dtype=hidden.dtype) if kept is None else kept
            kept[at] = hidden.cpu()
        if progress:
            progress(at.stop, len(tokens))
    return Likelihoods.joined(found), kept
