"""What is pruned: the linear layers inside the blocks, all of them, in all blocks; never the embedding or the head."""

from typing import NamedTuple

import torch
from torch import nn

from lottery.errors import LotteryError


class Sparsity(NamedTuple):
    """Zeros over the pruned layers and over the whole model, each parameter counted once however often it is shared."""

    parameters: int
    prunable_parameters: int
    prunable: float
    model: float


def blocks(model: nn.Module) -> nn.ModuleList:
    """The model's list of blocks: its longest ``ModuleList``, which holds for every decoder in transformers.

    **Raises** ``LotteryError`` where the model has none.
    """
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    if not lists:
        raise LotteryError(f"{type(model).__name__} has no list of blocks (nn.ModuleList); only decoders built of blocks can be pruned")
    return max(lists, key=len)


def prunable(model: nn.Module) -> dict[str, nn.Linear]:
    """Every linear layer inside the blocks, by its full name, in the order of the blocks.

    **Raises** ``LotteryError`` where there is none, and where a layer shares its storage with the embedding or the head: pruning one
    would prune the other.
    """
    inside = {id(module) for module in blocks(model).modules()}
    layers = {name: m for name, m in model.named_modules() if id(m) in inside and isinstance(m, nn.Linear)}
    if not layers:
        raise LotteryError(f"{type(model).__name__} has no nn.Linear inside its blocks; only such layers can be pruned")
    ends = {id(e.weight) for e in (model.get_input_embeddings(), model.get_output_embeddings()) if e is not None}
    storages = {
        e.weight.untyped_storage().data_ptr() for e in (model.get_input_embeddings(), model.get_output_embeddings()) if e is not None
    }
    for name, layer in layers.items():
        shared = not layer.weight.is_meta and layer.weight.untyped_storage().data_ptr() in storages
        if id(layer.weight) in ends or shared:
            raise LotteryError(f"{name} shares its weights with the embedding or the head; pruning it would prune those too")
    return layers


@torch.no_grad()
def count_zeros(model: nn.Module) -> Sparsity:
    """How sparse a model really is, counted from its weights."""
    layers = [layer.weight for layer in prunable(model).values()]
    zeros_prunable, size_prunable = _zeros(layers)
    zeros, size = _zeros(list(model.parameters()))  # parameters() names a shared tensor once
    return Sparsity(size, size_prunable, zeros_prunable / size_prunable, zeros / size)


def _zeros(tensors: list[torch.Tensor]) -> tuple[int, int]:
    return sum(t.numel() - int(torch.count_nonzero(t)) for t in tensors), sum(t.numel() for t in tensors)
