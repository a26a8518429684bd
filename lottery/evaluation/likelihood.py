"""From hidden states to log-likelihoods: how well variants of one model predict a text, and how far they are from the dense one.

Variants of a model differ in their blocks only: embedding, final norm and head are never pruned. So one head serves all of them, and the
hidden states in front of it are what is compared. Logits exist for some positions and part of the vocabulary at a time, in fp32. What is
needed of them is summed as they pass: a running maximum and a sum of exponentials, as in online softmax (arXiv 1805.02867).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPast

from lottery.models.blocks import owner
from lottery.models.calls import replaced

# Logits at one time, and how much of the vocabulary. On a CPU they stay in its cache; a GPU wants large products.
_LOGITS = {"cpu": 1 << 21, "cuda": 1 << 26}
_STRETCH = {"cpu": 1 << 13, "cuda": 1 << 15}

_COPIES = 8  # of a slice of logits in fp32: the model's own, the dense one's, their exponentials, and what torch needs on the way


def _at_one_time(device: torch.device) -> int:
    """Return how many logits to work on at one time: on a GPU that is nearly full, no more than there is room for."""
    most = _LOGITS.get(device.type, _LOGITS["cpu"])
    if device.type != "cuda":
        return most
    free = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return min(most, max(1 << 20, free // (4 * _COPIES)))


class Likelihoods(NamedTuple):
    """Sums over the predicted tokens of each window, float64 [windows]: of a variant, and of it beside the dense model.

    Attributes:
        nll: Negative log-likelihood in nats.
        kl: Kullback-Leibler divergence from the dense model's predictions in nats.
        agreed: Tokens for which both rank the same next token first.
    """

    nll: torch.Tensor
    kl: torch.Tensor
    agreed: torch.Tensor

    @staticmethod
    def joined(parts: "list[Likelihoods]") -> "Likelihoods":
        return Likelihoods(*map(torch.cat, zip(*parts, strict=True)))


class _Output(BaseModelOutputWithPast):
    """The output of a trunk: hidden states, and nothing of what else a family looks for in it."""

    def __getattr__(self, name: str):
        if name.startswith("__"):
            raise AttributeError(name)


class Head:
    """A model's way from hidden states to logits, a stretch of the vocabulary at a time.

    Whatever the model does to logits behind its head (Gemma caps them) happens here too.
    """

    def __init__(self, model: nn.Module):
        self.model, self.linear = model, model.get_output_embeddings()
        self.vocabulary = self.linear.weight.shape[0]
        self.trunks = {id(trunk): trunk for trunk in (model.base_model, owner(model))}.values()  # OPT calls its decoder past its trunk

    def stretches(self, device: torch.device) -> Iterator[tuple[int, Callable[[torch.Tensor], torch.Tensor]]]:
        """Yield the start of each stretch, and a function from hidden states [n, hidden] to fp32 logits [n, stretch]."""
        step = _STRETCH.get(device.type, _STRETCH["cpu"])
        for start in range(0, self.vocabulary, step):
            with self._only(slice(start, start + step)):
                yield start, self._logits

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        with replaced(self.trunks, lambda *_, **__: _Output(last_hidden_state=hidden[None])):
            return self.model(use_cache=False).logits[0].float()

    @contextmanager
    def _only(self, rows: slice):
        """Cut the head down to a stretch for a while."""
        linear = self.linear
        whole = linear.weight, linear.bias
        linear.weight = nn.Parameter(linear.weight.detach()[rows], requires_grad=False)
        linear.bias = None if linear.bias is None else nn.Parameter(linear.bias.detach()[rows], requires_grad=False)
        try:
            yield
        finally:
            linear.weight, linear.bias = whole


class _Running:
    """What is kept of one variant's logits at each position, [positions], while the vocabulary passes."""

    def __init__(self, positions: int, device: torch.device, *, compared: bool):
        self.compared = compared  # a model alone agrees with itself, and nobody needs its likeliest tokens
        self.top = torch.full((positions,), -torch.inf, device=device)
        self.total = torch.zeros(positions, device=device)  # sum of exp(logit - top)
        self.target = torch.zeros(positions, device=device)
        self.likeliest = torch.zeros(positions, dtype=torch.int64, device=device)
        self.drift = torch.zeros(positions, device=device)  # sum of exp(dense - its top) · (dense - logit)

    def add(self, at: slice, start: int, logits: torch.Tensor, targets: torch.Tensor, dense=None) -> tuple[torch.Tensor, torch.Tensor]:
        """Take in the logits [n, stretch] of some positions; return exp(logit - top), and the factor by which older sums have shrunk."""
        best, index = logits.max(-1) if self.compared else (logits.amax(-1), None)
        top = torch.maximum(self.top[at], best)
        shrink = (self.top[at] - top).exp_()
        if dense is not None:
            of_dense, weights, dense_shrink = dense
            self.drift[at] = self.drift[at] * dense_shrink + (of_dense - logits).mul_(weights).sum(-1)
        exponentials = (logits - top[:, None]).exp_()
        if self.compared:
            self.likeliest[at] = torch.where(best > self.top[at], index + start, self.likeliest[at])
        self.total[at] = self.total[at] * shrink + exponentials.sum(-1)
        self.top[at] = top
        inside = (targets >= start) & (targets < start + logits.shape[-1])
        found = logits.gather(-1, (targets - start).clamp(0, logits.shape[-1] - 1)[:, None]).squeeze(-1)
        self.target[at] = torch.where(inside, found, self.target[at])
        return exponentials, shrink

    @property
    def log_total(self) -> torch.Tensor:
        return self.top + self.total.log()


@torch.inference_mode()
def likelihoods(head: Head, variants: list[list[torch.Tensor]], batches: list[torch.Tensor]) -> list[Likelihoods]:
    """Compute the likelihoods of a text for several variants of one model, the dense one first.

    Args:
        head: The model's head.
        variants: For each variant its hidden states in front of the head, one tensor [windows, window, hidden] per batch, on any device.
        batches: Tokens of the text, int64 [windows, window], on the head's device.

    Returns:
        One ``Likelihoods`` per variant. The dense model's has ``kl`` 0 and agrees with itself everywhere. A loss that is not finite stays
        so.
    """
    device = batches[0].device
    targets = torch.cat([batch[:, 1:].reshape(-1) for batch in batches])
    if head.vocabulary <= _STRETCH.get(device.type, _STRETCH["cpu"]):
        return _of_whole_rows(head, variants, batches, targets)
    running = [_Running(len(targets), device, compared=len(variants) > 1) for _ in variants]
    stretch = min(head.vocabulary, _STRETCH.get(device.type, _STRETCH["cpu"]))
    step = max(1, _at_one_time(device) // stretch)
    for start, logits in head.stretches(device):
        first = 0
        for states in zip(*variants, strict=True):
            flat = [state[:, :-1].reshape(-1, state.shape[-1]) for state in states]
            for low in range(0, len(flat[0]), step):
                at = slice(first + low, first + min(low + step, len(flat[0])))
                dense = None
                for kept, hidden in zip(running, flat, strict=True):
                    values = logits(hidden[low : low + step].to(device))
                    sums = kept.add(at, start, values, targets[at], dense)
                    dense = dense or (values, *sums)
            first += len(flat[0])
    dense = running[0]
    found = []
    for kept in running:
        nll = kept.log_total - kept.target
        kl = torch.zeros_like(nll) if kept is dense else kept.drift / dense.total - dense.log_total + kept.log_total
        found.append(Likelihoods(*(_by_window(values, batches) for values in (nll, kl, (kept.likeliest == dense.likeliest).float()))))
    return found


def _of_whole_rows(head: Head, variants: list[list[torch.Tensor]], batches: list[torch.Tensor], targets: torch.Tensor) -> list[Likelihoods]:
    """Compute the same for a vocabulary of one stretch: nothing is carried between stretches, and torch's own softmax is quicker."""
    device = targets.device
    nll = torch.zeros(len(variants), len(targets), device=device)
    kl, agreed = torch.zeros_like(nll), torch.ones_like(nll)
    step = max(1, _at_one_time(device) // head.vocabulary)
    for _, logits in head.stretches(device):
        first = 0
        for states in zip(*variants, strict=True):
            flat = [state[:, :-1].reshape(-1, state.shape[-1]) for state in states]
            for low in range(0, len(flat[0]), step):
                at = slice(first + low, first + min(low + step, len(flat[0])))
                logs = (logits(hidden[low : low + step].to(device)).log_softmax(-1) for hidden in flat)
                dense = next(logs)
                nll[0, at] = -dense.gather(-1, targets[at, None]).squeeze(-1)
                if len(variants) == 1:
                    continue
                shares, likeliest = dense.exp(), dense.argmax(-1)
                for index, own in enumerate(logs, 1):
                    nll[index, at] = -own.gather(-1, targets[at, None]).squeeze(-1)
                    kl[index, at] = (dense - own).mul_(shares).sum(-1)
                    agreed[index, at] = (own.argmax(-1) == likeliest).float()
            first += len(flat[0])
    return [Likelihoods(*(_by_window(values[index], batches) for values in (nll, kl, agreed))) for index in range(len(variants))]


def _by_window(values: torch.Tensor, batches: list[torch.Tensor]) -> torch.Tensor:
    return values.view(sum(map(len, batches)), -1).double().sum(1).cpu()
