"""What is pruned: the linear layers inside the blocks, all of them, in all blocks; never the embedding or the head."""

from typing import NamedTuple

import torch
from torch import nn

from lottery.errors import LotteryError


class Sparsity(NamedTuple):
    """Shares of zeros over the pruned layers, over the whole model, and of each layer, and the weights of each layer; a parameter
    counts once however often it is shared."""

    parameters: int
    prunable_parameters: int
    prunable: float
    model: float
    layers: dict[str, float]
    layer_weights: dict[str, int]


def blocks(model: nn.Module) -> nn.ModuleList:
    """The model's list of blocks: its longest ``ModuleList``, which holds for every decoder in transformers.

    **Raises** ``LotteryError`` where the model has none.
    """
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    if not lists:
        raise LotteryError(f"{type(model).__name__} has no list of blocks (nn.ModuleList); only decoders built of blocks can be pruned")
    return max(lists, key=len)


def by_block(model: nn.Module) -> list[dict[str, nn.Linear]]:
    """For each block its linear layers by their full names. **Raises** as ``prunable``."""
    names = {id(module): name for name, module in model.named_modules()}
    found = [{names[id(m)]: m for m in block.modules() if isinstance(m, nn.Linear)} for block in blocks(model)]
    if not any(found):
        raise LotteryError(f"{type(model).__name__} has no nn.Linear inside its blocks; only such layers can be pruned")
    ends = [end.weight for end in (model.get_input_embeddings(), model.get_output_embeddings()) if end is not None]
    same = {id(end) for end in ends}
    storages = {end.untyped_storage().data_ptr() for end in ends}
    for layers in found:
        for name, layer in layers.items():
            if id(layer.weight) in same or (not layer.weight.is_meta and layer.weight.untyped_storage().data_ptr() in storages):
                raise LotteryError(f"{name} shares its weights with the embedding or the head; pruning it would prune those too")
    return found


def prunable(model: nn.Module) -> dict[str, nn.Linear]:
    """Every linear layer inside the blocks, by its full name, in the order of the blocks.

    **Raises** ``LotteryError`` where there is none, and where a layer shares its storage with the embedding or the head: pruning one
    would prune the other.
    """
    return {name: layer for layers in by_block(model) for name, layer in layers.items()}


@torch.no_grad()
def count_zeros(model: nn.Module) -> Sparsity:
    """How sparse a model really is, counted from its weights."""
    layers = {name: _zeros([layer.weight]) for name, layer in prunable(model).items()}
    gone_prunable, size_prunable = (sum(counts) for counts in zip(*layers.values(), strict=True))
    gone, size = _zeros(list(model.parameters()))  # parameters() names a shared tensor once
    shares = {name: zeros / weights for name, (zeros, weights) in layers.items()}
    sizes = {name: weights for name, (_, weights) in layers.items()}
    return Sparsity(size, size_prunable, gone_prunable / size_prunable, gone / size, shares, sizes)


def _zeros(tensors: list[torch.Tensor]) -> tuple[int, int]:
    return sum(t.numel() - int(torch.count_nonzero(t)) for t in tensors), sum(t.numel() for t in tensors)
