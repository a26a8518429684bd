"""Plain training of a causal language model: AdamW, a warm-up, half a cosine down to zero. A mask may hold weights at zero."""

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import nn

from lottery.common.errors import LotteryError
from lottery.training.masks import Masks, apply_masks

DECAY = 0.1
BETAS = (0.9, 0.95)  # as large models are trained; ELSA breaks down with a second moment as slow as 0.999
CLIP = 1.0  # the norm of a step's gradient at most, as usual for language models
WARM_UP = 100  # steps, or a tenth of a short schedule


class Schedule(NamedTuple):
    """How long to train, on how many windows per step, and at what peak learning rate."""

    steps: int
    batch: int
    peak_rate: float


def rate(step: int, schedule: Schedule) -> float:
    """Return a step's learning rate: linear warm-up, then half a cosine down to zero."""
    warm_up = min(WARM_UP, schedule.steps // 10 + 1)
    if step < warm_up:
        return schedule.peak_rate * (step + 1) / warm_up
    return schedule.peak_rate * 0.5 * (1 + math.cos(math.pi * (step - warm_up) / (schedule.steps - warm_up)))


def train(
    model: nn.Module,
    batches: Iterable[torch.Tensor],
    schedule: Schedule,
    *,
    first: int = 0,
    decay: float = DECAY,
    masks: Masks | None = None,
    loss: Callable[[nn.Module, torch.Tensor], torch.Tensor] | None = None,
    before_step: Callable[[torch.optim.Optimizer], None] | None = None,
    observe: Callable[[int], bool | None] | None = None,
) -> None:
    """Train a model in place from step ``first`` of a schedule to its end, with a new optimizer.

    Args:
        model: The model to train.
        batches: Tokens [windows, length] on its device, one tensor per step.
        schedule: Steps, batch size and peak learning rate.
        first: The step to start from.
        decay: AdamW's weight decay of matrices.
        masks: Which weights are kept; the others are set to zero before the first step. They stay zero because their gradients are masked,
            so AdamW's moments and weight decay are zero too.
        loss: Given the model and a batch, returns what is minimized; ``None`` takes the cross-entropy of the next token.
        before_step: Called with the optimizer once gradients are clipped; it may change them.
        observe: Called after each step with the number of steps done; returning ``True`` ends the training.

    Raises:
        LotteryError: A mask has no layer or another shape than its layer, or the batches end too early.
    """
    optimizer, masked, loss = new_optimizer(model, decay), apply_masks(model, masks or {}), loss or cross_entropy
    stream = iter(batches)
    for step in range(first, schedule.steps):
        for group in optimizer.param_groups:
            group["lr"] = rate(step, schedule)
        batch = next(stream, None)
        if batch is None:
            raise LotteryError(f"training: {step - first} batches were given, {schedule.steps - first} are needed")
        loss(model, batch).backward()
        if masked:
            torch._foreach_mul_([weight.grad for weight, _ in masked], [mask for _, mask in masked])
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        if before_step:
            before_step(optimizer)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if observe and observe(step + 1):
            return


def cross_entropy(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    """Return the mean nats of a batch's next tokens; ``batch`` is int64 [windows, length]."""
    return model(input_ids=batch, labels=batch, use_cache=False).loss


def new_optimizer(model: nn.Module, decay: float = DECAY) -> torch.optim.AdamW:
    """Make an AdamW without decay on norms and biases, as usual: they are not what overfits."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    return torch.optim.AdamW(
        [{"params": matrices, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}], betas=BETAS, fused=True
    )


@torch.no_grad()
def held_out_loss(model: nn.Module, windows: torch.Tensor) -> float:
    """Return the mean nats per token over held-out windows [windows, length], all weighted alike; infinite if any loss is not finite.

    The model is in training mode afterwards.
    """
    model.eval()
    losses = [model(input_ids=b, labels=b, use_cache=False).loss.item() * len(b) for b in windows.split(8)]
    model.train()
    mean = sum(losses) / len(windows)
    return mean if math.isfinite(mean) else math.inf
