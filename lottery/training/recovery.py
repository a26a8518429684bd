"""Retrain a checkpoint for some hundred steps, towards the zeros that it has or is to have: what a little text gives back.

It is plain AdamW on the linear layers inside the blocks. Embedding, head, norms and biases stay as they are, so that what is recovered is
recovered by the ticket itself. Wanda (arXiv 2306.11695) fine-tunes pruned models, too: by LoRA, and all of their parameters.

Whoever retrains has also seen more text than the dense model. So the dense model is retrained on as much, as a control.
"""

from collections.abc import Callable

import torch
from torch import nn

from lottery.common.errors import DivergedError
from lottery.models.blocks import prunable
from lottery.models.loading import available, cast
from lottery.pruning.layer_spec import LayerSpec
from lottery.pruning.pattern import Pattern
from lottery.training.elsa import Elsa
from lottery.training.recoveries import PERIOD
from lottery.training.trainer import Schedule, cross_entropy, train


def recover(
    model: nn.Module,
    samples: torch.Tensor,
    batch: int,
    rate: float,
    how: str = "masked",
    *,
    sparsity: float | None = None,
    pattern: Pattern | None = None,
    teacher: nn.Module | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Retrain a model in place.

    Weights in bfloat16 are trained in float32, since the smallest updates would be lost, and products computed in bfloat16 (mixed
    precision, arXiv 1710.03740). That takes 4 bytes a weight and 12 more for each that is trained, 1 for a mask or 5 for ELSA; a teacher
    takes 4 more of each. Afterwards the model is as it was: in its dtype, in evaluation mode, with the same parameters requiring gradients.
    Dropout is off, so that the same seed gives the same weights, and no arm learns through noise that scoring knows nothing of.

    Args:
        model: A model in float32 or bfloat16.
        samples: Windows of tokens, int64 [steps × ``batch``, tokens].
        batch: Windows per step.
        rate: The peak learning rate.
        how: One of ``recoveries.RECOVERIES``.
        sparsity: The share of each layer that is zero in the end; 0 leaves every weight free. ``None`` takes each layer's own zeros, so an
            allocation stays what it is. What is masked keeps its own zeros or none.
        pattern: The N:M pattern that ELSA is to find; ``None`` where it is to find none.
        teacher: The dense model, to learn from its predictions instead of the text. It is cast to float32.
        progress: Called with steps done and all steps.

    Raises:
        DivergedError: Weights stop being finite.
        ValueError: There are fewer windows than in one batch, or a sparsity or pattern is asked of what is masked.
    """
    if len(samples) < batch:
        raise ValueError(f"samples: given {len(samples)}; allowed: at least one batch, {batch}")
    if how == "masked" and (sparsity or pattern):
        raise ValueError(
            f"given sparsity {sparsity} and pattern {pattern}; allowed with masked: neither, since it keeps the zeros there are"
        )
    layers, asked = prunable(model), {parameter: parameter.requires_grad for parameter in model.parameters()}
    left, dtype, steps = {id(layer.weight) for layer in layers.values()}, model.dtype, len(samples) // batch
    device = model.get_input_embeddings().weight.device
    masks = {name: layer.weight.detach() != 0 for name, layer in layers.items()} if how == "masked" and sparsity != 0 else {}
    for parameter in asked:
        parameter.requires_grad_(id(parameter) in left)
    dropout = _without_dropout(model)
    try:
        cast(model, torch.float32)
        elsa = None if how == "masked" else Elsa(layers, _specs(layers, sparsity, pattern), weighted=how == "elsa")

        def observe(done: int) -> None:
            if elsa and done % PERIOD == 0:
                _check_finite(layers, rate)
                elsa.project()
            if progress:
                progress(done, steps)

        model.train()  # for what the checkpoints below need; there is no dropout
        loss = _loss(dtype, teacher)  # a teacher takes its memory first
        coming = 12 * sum(layer.weight.numel() for layer in layers.values())  # gradients, and Adam's two moments
        if _activations(model, batch * samples.shape[1]) > 0.8 * (available(device) - coming):  # a rough bound, and allocators leave gaps
            model.activation_checkpointing_enable()  # a third more time, for the memory of one block instead of all
        train(
            model,
            (windows.to(device) for windows in samples.split(batch)),
            Schedule(steps, batch, rate),
            masks=masks,
            decay=0.0,  # in so few steps it regularizes nothing, and it would move the dense model away from itself
            loss=loss,
            before_step=elsa and elsa.pull,
            observe=observe,
        )
        _check_finite(layers, rate)
        if elsa:
            elsa.finish()
    finally:
        model.activation_checkpointing_disable()
        model.eval()
        for owner, name, share in dropout:
            setattr(owner, name, share)
        for parameter, wanted in asked.items():
            parameter.requires_grad_(wanted)
            parameter.grad = None
        cast(model, dtype)
    _check_finite(layers, rate)  # also in the dtype that the model has again


def least_memory(model: nn.Module, elsa: bool, teacher: bool) -> int:
    """Return the bytes without which ``recover`` cannot begin, whatever the batch: weights, gradients, moments and what a way adds.

    Args:
        model: The model, with or without its weights.
        elsa: Whether it learns by ELSA.
        teacher: Whether it learns from a dense model's predictions.
    """
    whole = sum(parameter.numel() for parameter in model.parameters())
    pruned = sum(layer.weight.numel() for layer in prunable(model).values())
    return 4 * whole * (2 if teacher else 1) + (12 + (5 if elsa else 1)) * pruned


def _without_dropout(model: nn.Module) -> list[tuple[object, str, float]]:
    """Set every dropout of a model to 0, and return what was set: its owner, its name there, and its share.

    A dropout would draw without a seed, and in some hundred steps it regularizes nothing. Families keep theirs in ``nn.Dropout``, in
    attributes of their layers, or in the config, as *dropout*, *drop* or *pdrop*.
    """
    owners = {id(one): one for module in model.modules() for one in (module, getattr(module, "config", None)) if one is not None}
    found = [
        (owner, name, share)
        for owner in owners.values()
        for name, share in vars(owner).items()
        if isinstance(share, float) and share and ("drop" in name or (name == "p" and isinstance(owner, nn.Dropout)))
    ]
    for owner, name, _ in found:
        setattr(owner, name, 0.0)
    return found


def _check_finite(layers: dict[str, nn.Linear], rate: float) -> None:
    if not all(torch.isfinite(layer.weight).all() for layer in layers.values()):
        raise DivergedError(f"recover: the retraining diverged at a learning rate of {rate:g}; lower recover.learning_rate")


def _activations(model: nn.Module, tokens: int) -> int:
    """Return a rough bound on the bytes that the blocks keep of a batch for the way back, and the head's logits in float32."""
    config = model.config
    wide = 24 * config.hidden_size + 5 * (getattr(config, "intermediate_size", None) or 4 * config.hidden_size)
    return tokens * (config.num_hidden_layers * wide * 4 + 5 * config.vocab_size * 4)


def _specs(layers: dict[str, nn.Linear], sparsity: float | None, pattern: Pattern | None) -> dict[str, LayerSpec]:
    def share(layer: nn.Linear) -> float:
        return 1 - int(layer.weight.count_nonzero()) / layer.weight.numel() if sparsity is None else sparsity

    return {name: LayerSpec(name, share(layer), pattern) for name, layer in layers.items()}


def _loss(dtype: torch.dtype, teacher: nn.Module | None) -> Callable[[nn.Module, torch.Tensor], torch.Tensor]:
    """Return the function to minimize, its products computed in ``dtype``."""
    if teacher is not None:
        cast(teacher, torch.float32)  # so that a student with its weights predicts the same, to the bit

    def loss(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        with torch.autocast(batch.device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
            if teacher is None:
                return cross_entropy(model, batch)
            with torch.no_grad():
                wanted = teacher(input_ids=batch, use_cache=False).logits
            found = model(input_ids=batch, use_cache=False).logits
        # Its gradient is that of the divergence, and exactly zero where both predict the same: Adam would blow up what rounding leaves.
        found = found.float().flatten(0, 1)
        difference = found.detach().softmax(-1) - wanted.float().flatten(0, 1).softmax(-1)
        return (found * difference).sum() / len(found)

    return loss
