"""Retrain a pruned checkpoint for a few hundred steps, keeping its zeros: what a little of the training text gives back.

It is plain AdamW on the weights that pruning left in the linear layers inside the blocks. Embedding, head, norms and biases stay as they
are, so that what is recovered is recovered by the ticket itself. Wanda (arXiv 2306.11695) fine-tunes its pruned models in the same way,
with LoRA and in full. The dense model is not retrained, so recovered models have seen more text than it has. In bfloat16 the smallest
updates are lost.
"""

from collections.abc import Callable

import torch
from torch import nn

from lottery.common.errors import LotteryError
from lottery.models.blocks import prunable
from lottery.training.trainer import Schedule, train


def recover(model: nn.Module, samples: torch.Tensor, batch: int, rate: float, progress: Callable[[int, int], None] | None = None) -> None:
    """Retrain what is left of a pruned model, in place; zeros stay zero, to the bit.

    Afterwards the model is as it was: in evaluation mode, with the same parameters requiring gradients.

    Args:
        model: A pruned model, in float32 or bfloat16.
        samples: Windows of tokens, int64 [steps × ``batch``, tokens].
        batch: Windows per step.
        rate: The peak learning rate.
        progress: Called with steps done and all steps.

    Raises:
        LotteryError: The loss stops being finite.
    """
    layers = prunable(model)
    asked = {parameter: parameter.requires_grad for parameter in model.parameters()}
    left = {id(layer.weight) for layer in layers.values()}
    masks = {name: layer.weight.detach() != 0 for name, layer in layers.items()}
    steps = len(samples) // batch
    device = model.get_input_embeddings().weight.device
    batches = (windows.to(device) for windows in samples.split(batch))
    for parameter in asked:
        parameter.requires_grad_(id(parameter) in left)
    try:
        model.train()
        model.activation_checkpointing_enable()  # a third more time, for the memory of one block instead of all
        train(model, batches, Schedule(steps, batch, rate), masks=masks, observe=lambda done: progress(done, steps) if progress else None)
    finally:
        model.activation_checkpointing_disable()
        model.eval()
        for parameter, wanted in asked.items():
            parameter.requires_grad_(wanted)
            parameter.grad = None
    if not all(torch.isfinite(layer.weight).all() for layer in layers.values()):
        raise LotteryError(f"recover: the retraining diverged at a learning rate of {rate:g}; lower recover.learning_rate")
