"""What is pruned: all linear layers inside all blocks; never the embedding or the head."""

from typing import NamedTuple

import torch
from torch import nn

from lottery.common.errors import LotteryError

MOST_ELSEWHERE = 0.05  # of the weights of the blocks: convolutions and gates that no method here prunes


class Sparsity(NamedTuple):
    """The sparsity of a model; a parameter counts once however often it is shared.

    Attributes:
        parameters: Parameters of the whole model.
        prunable_parameters: Weights of the pruned layers.
        prunable: Share of zeros over the pruned layers.
        model: Share of zeros over the whole model.
        layers: Share of zeros of each layer.
        layer_weights: Weights of each layer.
    """

    parameters: int
    prunable_parameters: int
    prunable: float
    model: float
    layers: dict[str, float]
    layer_weights: dict[str, int]


def blocks(model: nn.Module) -> nn.ModuleList:
    """Return the model's list of blocks: the longest ``ModuleList`` that is not inside another one, as lists of experts are.

    Raises:
        LotteryError: The model has no such list.
    """
    lists = {name: module for name, module in model.named_modules() if isinstance(module, nn.ModuleList)}
    outer = [module for name, module in lists.items() if not any(name.startswith(f"{other}.") for other in lists)]
    if not outer:
        raise LotteryError(f"{type(model).__name__} has no list of blocks (nn.ModuleList); only decoders built of blocks can be pruned")
    return max(outer, key=len)


def owner(model: nn.Module) -> nn.Module:
    """Return the module that owns the list of blocks: the trunk, or a part of it."""
    chain = blocks(model)
    return next(module for module in model.modules() if any(child is chain for child in module.children()))


def by_block(model: nn.Module) -> list[dict[str, nn.Linear]]:
    """Return each block's linear layers by their full names.

    Raises:
        LotteryError: As for ``prunable``.
    """
    names = {id(module): name for name, module in model.named_modules()}
    found = [{names[id(m)]: m for m in block.modules() if isinstance(m, nn.Linear)} for block in blocks(model)]
    if not any(found):
        raise LotteryError(f"{type(model).__name__} has no nn.Linear inside its blocks; only such layers can be pruned")
    _check_all_is_linear(model, found)
    ends = [end.weight for end in (model.get_input_embeddings(), model.get_output_embeddings()) if end is not None]
    same = {id(end) for end in ends}
    storages = {end.untyped_storage().data_ptr() for end in ends}
    for layers in found:
        for name, layer in layers.items():
            if id(layer.weight) in same or (not layer.weight.is_meta and layer.weight.untyped_storage().data_ptr() in storages):
                raise LotteryError(f"{name} shares its weights with the embedding or the head; pruning it would prune those too")
    return found


def _check_all_is_linear(model: nn.Module, found: list[dict[str, nn.Linear]]) -> None:
    """Raise ``LotteryError`` if too many of the blocks' weights are outside ``nn.Linear``.

    Packed experts are one tensor of three dimensions and no ``nn.Linear``: half of the linear layers would then be a tenth of the blocks.
    """
    linear = {f"{name}.weight": layer.weight.numel() for layers in found for name, layer in layers.items()}
    prefix = next(name for name, module in model.named_modules() if module is blocks(model))
    matrices = {name: p for name, p in model.named_parameters() if name.startswith(f"{prefix}.") and p.ndim > 1}
    others = {name: p for name, p in matrices.items() if name not in linear}
    share = sum(p.numel() for p in others.values()) / sum(p.numel() for p in matrices.values())
    if share > MOST_ELSEWHERE:
        largest = max(others, key=lambda name: others[name].numel())
        raise LotteryError(
            f"{type(model).__name__} holds {share:.0%} of the weights of its blocks elsewhere than in nn.Linear, such as {largest}"
            f" {list(others[largest].shape)}; those would not be pruned, so it is not pruned at all"
        )


def prunable(model: nn.Module) -> dict[str, nn.Linear]:
    """Return every linear layer inside the blocks by its full name, in the order of the blocks.

    Raises:
        LotteryError: There is none, or a layer shares its storage with the embedding or the head: pruning one would prune the other.
    """
    return {name: layer for layers in by_block(model) for name, layer in layers.items()}


@torch.no_grad()
def count_zeros(model: nn.Module) -> Sparsity:
    """Count how sparse a model really is, from its weights."""
    layers = {name: _zeros([layer.weight]) for name, layer in prunable(model).items()}
    gone_prunable, size_prunable = (sum(counts) for counts in zip(*layers.values(), strict=True))
    gone, size = _zeros(list(model.parameters()))  # parameters() names a shared tensor once
    shares = {name: zeros / weights for name, (zeros, weights) in layers.items()}
    sizes = {name: weights for name, (_, weights) in layers.items()}
    return Sparsity(size, size_prunable, gone_prunable / size_prunable, gone / size, shares, sizes)


def _zeros(tensors: list[torch.Tensor]) -> tuple[int, int]:
    return sum(t.numel() - int(torch.count_nonzero(t)) for t in tensors), sum(t.numel() for t in tensors)
