"""Several variants of a model scored in one walk over its blocks: only the block at work is in memory, read from disk once.

Hidden states wait in main memory: of each variant one tensor a batch. A block is read, and for each variant pruned anew and passed;
then the next one. Calibration samples walk along with the variants that need them. What is computed is what ``evaluation`` computes,
call by call, so that both give the same numbers.
"""

import numpy as np
import torch
from accelerate.utils import set_module_tensor_to_device
from torch import nn

from lottery import memory
from lottery.errors import NotFiniteError
from lottery.likelihood import Head, Likelihoods, likelihoods
from lottery.methods import METHODS, Variant
from lottery.pruning import cuts_of, prune_fed_, prune_layers_
from lottery.pruning.calls import entering, learned, leaving
from lottery.pruning.scope import blocks, by_block
from lottery.pruning.walk import measured
from lottery.weights import Slots, Weights


@torch.inference_mode()
def evaluate_streamed(
    model: nn.Module, weights: Weights, variants: list[Variant], tokens: np.ndarray, device: torch.device, *,
    batch_size: int = 1, samples: torch.Tensor | None = None, seed: int = 0, progress=None,
) -> list[Likelihoods]:  # fmt: skip
    """Scores ``variants``, the dense model first, in one pass over the weights on disk.

    **Arguments**: the model without weights (``loading.skeleton`` with a dtype) and where they are; the variants; ``tokens``, int64
    [windows, window]; the device on which blocks work; ``batch_size`` windows at a time; ``samples`` [samples, length] for variants that
    need calibration data; ``seed`` for methods that draw; ``progress``, called with the numbers of blocks done and of all.

    **Raises** ``NotFiniteError`` as soon as the dense model's hidden states are not finite, and ``LotteryError`` as ``prune`` does.
    """
    dtype = next(model.parameters()).dtype
    chain, layers = blocks(model), by_block(model)
    prefix = next(name for name, module in model.named_modules() if module is chain)
    texts = list(torch.from_numpy(tokens).split(batch_size))
    crops = [] if samples is None else list(samples.split(1))
    rows, slots, dense = _rows(model, weights, device, dtype), Slots(weights, device, dtype), {}
    compact = _place_ends(model, chain, weights, device, dtype, [*texts, *crops])
    slots.fill(chain[0], f"{prefix}.0")
    walks = _Walks(model, chain, device)
    for batch in compact:
        walks.enter(batch)
    states = [walks.states[: len(texts)] for _ in variants]
    crops = [walks.states[len(texts) :] if variant.calibrated else [] for variant in variants]
    cuts = [None if variant.method == "dense" else cuts_of(model, variant, seed) for variant in variants]
    for index, block in enumerate(chain):
        if index:
            slots.fill(block, f"{prefix}.{index}")
        linears = {name.removeprefix(f"{prefix}.{index}."): layer.weight.data for name, layer in layers[index].items()}
        for name, weight in linears.items():
            dense[name] = dense[name].copy_(weight) if name in dense else weight.clone()
        for column, variant in enumerate(variants):
            if column:
                for name, weight in linears.items():
                    weight.copy_(dense[name])
            if variant.method != "dense":
                _prune(variant, cuts[column], block, layers[index], crops[column], walks, index)
            for waiting in (states[column], crops[column]):
                for i, state in enumerate(waiting):
                    after = walks.call(state, index).state(block, state.to(device))
                    if variant.method == "dense" and not torch.isfinite(after).all():
                        raise NotFiniteError(f"the dense model's hidden states are not finite behind block {index} in {dtype}")
                    waiting[i] = after.cpu()
        slots.clear(block)
        memory.trim()
        if progress:
            progress(index + 1, len(chain))
    for waiting in states:
        for i, state in enumerate(waiting):
            waiting[i] = leaving(model, chain, state.to(device), walks.in_tuple).cpu()
    head = Head(model, rows)
    return likelihoods(head, states, [batch.to(device) for batch in texts])


class _Walks:
    """Hidden states on their way in, and how blocks are called for each shape of them."""

    def __init__(self, model, chain, device):
        self.model, self.chain, self.device = model, chain, device
        self.in_tuple: bool | None = None  # whether blocks answer with a tuple
        self.states: list[torch.Tensor] = []
        self._calls: dict[tuple, list] = {}

    def enter(self, tokens: torch.Tensor) -> None:
        """Takes the hidden states of some tokens in."""
        tokens = tokens.to(self.device)
        state, call = entering(self.model, self.chain, tokens)
        if self.in_tuple is None:
            self.in_tuple = isinstance(call.output(self.chain[0], state), tuple)
        if state.shape not in self._calls:
            self._calls[state.shape] = learned(self.model, self.chain, tokens, self.in_tuple)
        self.states.append(state.cpu())

    def call(self, state: torch.Tensor, index: int):
        return self._calls[state.shape][index]


def _prune(variant: Variant, cuts, block, layers, crops, walks, index) -> None:
    """Prunes a block that is dense, as the variant wants it."""
    for name, layer in layers.items():
        cuts[name].check(layer.weight.data)
    if crops:
        fed = measured(block, layers, crops, walks.call(crops[0], index), walks.device, METHODS[variant.method].needs == "products")
        prune_fed_(variant, cuts, fed)
    else:
        prune_layers_(variant, cuts, layers)


def _place_ends(model, chain, weights: Weights, device, dtype, batches: list[torch.Tensor]) -> list[torch.Tensor]:
    """Puts on the device what is outside of the blocks, but for the head. Of the embedding only the rows that the text needs.

    **Returns** the batches, with tokens that name those rows.
    """
    for name, buffer in list(model.named_buffers()):
        set_module_tensor_to_device(model, name, device, value=buffer)
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    ends = {id(p) for module in (chain, embedding, head) for p in module.parameters()}
    for name, parameter in list(model.named_parameters()):
        if id(parameter) not in ends:
            value = weights.copy_(torch.empty(parameter.shape, dtype=dtype, device=device), name)
            set_module_tensor_to_device(model, name, device, value=value, dtype=dtype)
    used, places = torch.unique(torch.cat([batch.reshape(-1) for batch in batches]), return_inverse=True)
    embedding.weight = nn.Parameter(weights.rows(_name(model, embedding.weight), used).to(device, dtype), requires_grad=False)
    embedding.padding_idx = None  # it named a row of the whole table
    return [part.view(batch.shape) for part, batch in zip(places.split([batch.numel() for batch in batches]), batches, strict=True)]


def _rows(model, weights: Weights, device, dtype):
    """What reads a stretch of the head, always into the same memory."""
    linear, room = model.get_output_embeddings(), {}
    names = [_name(model, tensor) for tensor in (linear.weight, linear.bias) if tensor is not None]
    widths = [linear.weight.shape[1:], torch.Size()]

    def rows(start: int, stop: int):
        found = []
        for name, width in zip(names, widths, strict=False):
            if (name, stop - start) not in room:
                room[name, stop - start] = torch.empty(stop - start, *width, device=device, dtype=dtype)
            found.append(weights.copy_(room[name, stop - start], name, start))
        return found[0], found[1] if len(found) > 1 else None

    return rows


def _name(model, wanted: torch.Tensor) -> str:
    return next(name for name, parameter in model.named_parameters() if parameter is wanted)
