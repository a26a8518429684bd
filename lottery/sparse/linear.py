"""A linear layer whose weight stays in the sparse-bitmask format."""

import threading
from types import ModuleType

import torch
from torch.nn.functional import linear

from lottery.sparse import bitmask, gpu
from lottery.sparse.bitmask import Packed
from lottery.sparse.kernel import FEW, Kernel, KernelError, kernel


class SparseLinear(torch.nn.Module):
    """``torch.nn.Linear`` with a packed weight, for inference.

    A few tokens are multiplied by the kernel of the device, straight from the packed weight. For many, the weight is unpacked into scratch
    for the time of one product by torch; all layers share it, and it stays as large as the largest. Without a kernel it is always unpacked;
    ``kernel_reason`` says why a CPU has none, ``gpu.why_not`` why a GPU has none.
    """

    def __init__(self, packed: Packed, bias: torch.Tensor | None = None):
        super().__init__()
        self.out_features, self.in_features = packed.shape.tolist()
        for name, part in packed._asdict().items():
            self.register_buffer(name, part)
        self.register_buffer("bias", bias)
        self._kernel, self.kernel_reason = available_kernel()

    @classmethod
    def of(cls, layer: torch.nn.Linear) -> "SparseLinear":
        """Return a dense layer with its weight packed."""
        return cls(pack(layer.weight.detach()), None if layer.bias is None else layer.bias.detach())

    @property
    def packed(self) -> Packed:
        return Packed(self.compressed, self.bitmask, self.row_offsets, self.shape)

    def dense_weight(self) -> torch.Tensor:
        """Return the weight [out_features, in_features] as a dense tensor."""
        return unpack(self.packed)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if 1 <= x.numel() // self.in_features <= FEW:
            if self._kernel and x.device.type == "cpu":
                return self._kernel.multiply(x, self.packed, self.bias)
            if x.device.type == "cuda" and not gpu.why_not(gpu.architecture_of(x.device)):
                return gpu.sparse_linear(x, self.compressed, self.bitmask, self.row_offsets, self.bias, self.in_features)
        weight = self._kernel.unpack(self.packed, _scratch(self.packed)) if self._kernel and x.device.type == "cpu" else self.dense_weight()
        return linear(x, weight.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype))


_kept = threading.local()


def _scratch(packed: Packed) -> torch.Tensor:
    """Return memory for a dense weight, the same for every layer: to take fresh memory for a large one costs more than the product."""
    rows, columns = packed.shape.tolist()
    kept = _kept.__dict__.get("bytes")
    needed = rows * columns * packed.compressed.itemsize
    if kept is None or kept.numel() < needed:
        with torch.inference_mode(False):  # what inference makes cannot be used outside it
            kept = _kept.bytes = torch.empty(needed, dtype=torch.uint8)
    return kept[:needed].view(packed.compressed.dtype).view(rows, columns)


def unpack(packed: Packed) -> torch.Tensor:
    """Return the dense weight [rows, columns] of a packed one, by the kernel where there is one."""
    return _for(packed.compressed).unpack(packed)


def pack(weight: torch.Tensor) -> Packed:
    """Return a weight [rows, columns] in the sparse-bitmask format, by the kernel where there is one."""
    return _for(weight).pack(weight)


def _for(tensor: torch.Tensor) -> Kernel | ModuleType:
    """Return what packs and unpacks a tensor: the kernel in main memory, where there is one, else torch."""
    return (tensor.device.type == "cpu" and available_kernel()[0]) or bitmask


def available_kernel() -> tuple[Kernel | None, str]:
    """Return the kernel and '', or ``None`` and why there is none."""
    try:
        return kernel(), ""
    except KernelError as error:
        return None, str(error)
