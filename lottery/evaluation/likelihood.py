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


def _stretch(device: torch.device) -> int:
    return _STRETCH.get(device.type, _STRETCH["cpu"])


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
        step = _stretch(device)
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
def likelihoods(head: Head, hidden: torch.Tensor, tokens: torch.Tensor, dense: torch.Tensor | None = None) -> Likelihoods:
    """Compute the likelihoods of windows of a text for a variant of a model.

    Args:
        head: The model's head.
        hidden: The variant's hidden states in front of the head [windows, window, hidden], on any device.
        tokens: The windows, int64 [windows, window], on the head's device.
        dense: The dense model's hidden states, as ``hidden``; without them the variant is compared with itself.

    Returns:
        The likelihoods. Compared with itself, a variant has ``kl`` 0 and agrees everywhere. A loss that is not finite stays so.
    """
    targets = tokens[:, 1:].reshape(-1)
    states, beside = (None if of is None else of[:, :-1].reshape(-1, of.shape[-1]) for of in (hidden, dense))
    whole = head.vocabulary <= _stretch(targets.device)
    sums = (_of_whole_rows if whole else _of_stretches)(head, states, targets, beside)
    return Likelihoods(*(values.view(len(tokens), -1).double().sum(1).cpu() for values in sums))


def _of_stretches(head: Head, hidden: torch.Tensor, targets: torch.Tensor, dense: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
    """Compute the three numbers of ``Likelihoods`` at each position, from hidden states [positions, hidden]."""
    device, compared = targets.device, dense is not None
    running, reference = (_Running(len(targets), device, compared=compared) for _ in range(2))
    step = max(1, _at_one_time(device) // _stretch(device))
    for start, logits in head.stretches(device):
        for low in range(0, len(targets), step):
            at, beside = slice(low, low + step), None
            if compared:
                values = logits(dense[at].to(device))
                beside = (values, *reference.add(at, start, values, targets[at]))
            running.add(at, start, logits(hidden[at].to(device)), targets[at], beside)
    nll = running.log_total - running.target
    if not compared:
        return nll, torch.zeros_like(nll), torch.ones_like(nll)
    kl = running.drift / reference.total - reference.log_total + running.log_total
    return nll, kl, (running.likeliest == reference.likeliest).float()


def _of_whole_rows(head: Head, hidden: torch.Tensor, targets: torch.Tensor, dense: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
    """Compute the same for a vocabulary of one stretch: nothing is carried between stretches, and torch's own softmax is quicker."""
    device = targets.device
    nll = torch.zeros(len(targets), device=device)
    kl, agreed = torch.zeros_like(nll), torch.ones_like(nll)
    step = max(1, _at_one_time(device) // head.vocabulary)
    for _, logits in head.stretches(device):
        for low in range(0, len(targets), step):
            at = slice(low, low + step)
            reference = None if dense is None else logits(dense[at].to(device)).log_softmax(-1)
            own = logits(hidden[at].to(device)).log_softmax(-1)
            nll[at] = -own.gather(-1, targets[at, None]).squeeze(-1)
            if reference is not None:
                agreed[at] = (own.argmax(-1) == reference.argmax(-1)).float()
                kl[at] = (reference - own).mul_(reference.exp()).sum(-1)
    return nll, kl, agreed
