"""Retraining a pruned checkpoint for a few hundred steps, its zeros kept: what a little of the training text gives back.

Plain AdamW on the weights that pruning left in the linear layers inside the blocks; embedding, head, norms and biases stay as they are,
so that what is recovered is recovered by the ticket itself. Wanda (arXiv 2306.11695) fine-tunes its pruned models alike, with LoRA and
in full. The dense model is not retrained: beside it, recovered ones have seen more text. In bfloat16 the smallest updates are lost.
"""

from collections.abc import Callable

import torch
from torch import nn

from lottery.common.errors import LotteryError
from lottery.models.blocks import prunable
from lottery.training.trainer import Schedule, train


def recover(model: nn.Module, samples: torch.Tensor, batch: int, rate: float, progress: Callable[[int, int], None] | None = None) -> None:
    """Retrains what is left of a pruned model, in place; what is nought stays nought, to the bit. The model is then as it was: in
    evaluation mode, with the same parameters asking for gradients.

    **Arguments**: the model, in float32 or bfloat16; ``samples``, int64 [steps × ``batch``, tokens]; windows a step; the peak learning
    rate; ``progress``, called with steps done and all steps.

    **Raises** ``LotteryError`` where the loss stops being finite.
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
