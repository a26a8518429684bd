"""What zeros save: a pruned model with packed weights beside the same model with dense ones, in a file, in memory and while it writes.

The same decoder runs both, in turn, so that the comparison is sparse against dense and not one program against another.
"""

import copy

import torch
from pydantic import BaseModel
from torch import nn

from lottery.common.format import dtype_name, size
from lottery.evaluation.decoder import Decoder, UnsupportedError, check_supported, decode
from lottery.evaluation.generation import Speed
from lottery.models import memory
from lottery.models.blocks import prunable
from lottery.models.shortage import is_about_memory
from lottery.pruning.rounding import rounded_bytes
from lottery.sparse.bitmask import stored_bytes
from lottery.sparse.kernel import KernelError, kernel
from lottery.sparse.linear import SparseLinear


class Form(BaseModel):
    """A model with its weights in one form, dense or packed.

    Attributes:
        stored: Bytes of its weights in a file.
        memory: Peak bytes of main memory while it writes, or of GPU memory; ``None`` where it did not write.
        read: Bytes of weights that are read for each token; ``None`` where it did not write.
        speed: How fast it writes; ``None`` where it did not.
    """

    stored: int
    memory: int | None = None
    read: int | None = None
    speed: Speed | None = None


class Savings(BaseModel):
    """A model in both forms.

    Attributes:
        dense: With dense weights.
        sparse: With packed weights; ``None`` for a model that was not pruned, and for one whose weights are rounded.
        rounded: Bytes in a file with weights rounded to a few bits; ``None`` where they are not.
        dtype: Of the stored values.
        kernel: The instruction set of the kernel; empty where nothing was timed.
        obstacle: Why nothing was timed; empty where something was.
    """

    dense: Form
    sparse: Form | None
    rounded: int | None = None
    dtype: str
    kernel: str = ""
    obstacle: str = ""

    @property
    def stored(self) -> int:
        """Bytes in a file, in the form that suits the model."""
        if self.rounded is not None:
            return self.rounded
        return (self.sparse or self.dense).stored


def rounded_savings(model: nn.Module, bits: int, stored: torch.dtype) -> Savings:
    """Count the bytes in a file of a model whose linear layers are rounded to ``bits`` bits; all else is stored in ``stored``.

    Nothing is timed: no kernel here reads such weights.
    """
    whole = sum(p.numel() for p in model.parameters()) * stored.itemsize
    layers = [layer.weight for layer in prunable(model).values()]
    rounded = whole + sum(rounded_bytes(weight, bits) - weight.numel() * stored.itemsize for weight in layers)
    obstacle = "no kernel here reads rounded weights"
    return Savings(dense=Form(stored=whole), sparse=None, rounded=rounded, dtype=dtype_name(stored), obstacle=obstacle)


@torch.inference_mode()
def savings(
    model: nn.Module, tokens: torch.Tensor, new_tokens: int, repeats: int, stored: torch.dtype, pruned: bool, device: torch.device
) -> Savings:
    """Measure what the zeros of a model save. It stays as it is.

    Each round writes once by each form. The memory of a form is that of its weights, and what the process grows by while it alone writes.

    Args:
        model: A causal language model with dense weights, on ``device``.
        tokens: The prompt, int64 [1, length].
        new_tokens: Tokens to write after it.
        repeats: Timed rounds, after one that is not timed.
        stored: The dtype of the values in a file.
        pruned: Whether the model has zeros to pack.
        device: Where the model writes.

    Returns:
        Both forms. Where the model cannot be timed, they have no speed, and ``obstacle`` says why.
    """
    whole = sum(p.numel() for p in model.parameters()) * stored.itemsize
    dense = Form(stored=whole)
    layers = [layer.weight for layer in prunable(model).values()]
    # In that dtype first: what it rounds to zero is not stored.
    spared = sum(weight.numel() * stored.itemsize - stored_bytes(weight.to(stored)) for weight in layers) if pruned else 0
    sparse = Form(stored=whole - spared) if pruned else None
    found = Savings(dense=dense, sparse=sparse, dtype=dtype_name(stored), obstacle=_obstacle(model, pruned, device))
    if found.obstacle:
        return found
    try:
        forms = [(dense, model), *([(sparse, packed(model))] if sparse else [])]
        _time(forms, tokens, new_tokens, repeats, device)
    except (RuntimeError, MemoryError) as error:
        if not is_about_memory(error):
            raise
        return found.model_copy(update={"obstacle": "main memory does not do for both forms at once"})
    return found.model_copy(update={"kernel": kernel().instructions})


def _time(forms: list[tuple[Form, nn.Module]], tokens: torch.Tensor, new_tokens: int, repeats: int, device: torch.device) -> None:
    """Fill in what each form, a model in it beside, takes and how fast it writes."""
    decoders = []
    for form, model in forms:
        decode(Decoder(model, tokens.shape[1] + 2), tokens, 2)  # what only the first run allocates counts for neither form
        with memory.watched(device, _bytes(model)) as held:
            decoder = Decoder(model, tokens.shape[1] + new_tokens)
            decode(decoder, tokens, new_tokens)
        form.memory, form.read = held.bytes, decoder.read_bytes()
        decoders.append(decoder)
    rounds = [[decode(decoder, tokens, new_tokens) for decoder in decoders] for _ in range(repeats)]
    for (form, _), runs in zip(forms, zip(*rounds, strict=True), strict=True):
        form.speed = Speed.of(list(runs), tokens)


def packed(model: nn.Module) -> nn.Module:
    """Return a copy of a model whose linear layers are packed where that makes them smaller; it shares all other weights with the model."""
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    twin = copy.deepcopy(model, memo=shared)
    for name, layer in prunable(twin).items():
        if stored_bytes(layer.weight) < layer.weight.nbytes:
            twin.set_submodule(name, SparseLinear.of(layer))
    return twin


def _bytes(model: nn.Module) -> int:
    """Return the bytes of a model's weights as they are held in memory; what is shared counts once."""
    held = {tensor.data_ptr(): tensor.nbytes for tensor in (*model.parameters(), *model.buffers())}
    return sum(held.values())


def _obstacle(model: nn.Module, pruned: bool, device: torch.device) -> str:
    """Return why a model cannot be timed with packed weights here; empty where it can."""
    if device.type != "cpu":
        return "the kernel for GPUs has not been timed on one yet"
    try:
        check_supported(model.config)
        kernel()
    except (UnsupportedError, KernelError) as error:
        return str(error)
    beside = sum(stored_bytes(layer.weight) for layer in prunable(model).values()) if pruned else 0
    beside += 2 * 2 * model.get_output_embeddings().weight.numel()  # each decoder's head in 16 bits
    if beside > (free := memory.main_memory().free):
        return f"the packed weights take {size(beside)} beside the dense ones, and {size(free)} of main memory is free"
    return ""
