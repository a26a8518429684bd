"""The sparse-bitmask format: the nonzero values of a weight, a bit for each weight that says where they are, and row offsets.

A dense ``layer.weight`` [rows, columns] is stored as four tensors, as compressed-tensors does (at 52792be0, ``sparse_bitmask.py``):

- ``layer.compressed``: the nonzero values in row-major order, in the weight's dtype;
- ``layer.bitmask``: uint8 [rows, ceil(columns / 8)], bit ``i % 8`` of byte ``i // 8`` set where column ``i`` is nonzero;
- ``layer.row_offsets``: int64 [rows], where the values of each row begin;
- ``layer.shape``: int64 [2].
"""

from typing import NamedTuple

import numpy as np
import torch

from lottery.common.errors import LotteryError

NAME = "sparse-bitmask"  # what config.json calls it
PARTS = ("compressed", "bitmask", "row_offsets", "shape")
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


class FormatError(LotteryError):
    """A stored weight is inconsistent. It is refused before anything is computed from it."""


class Packed(NamedTuple):
    """A weight in the sparse-bitmask format; the fields are those of the file.

    Attributes:
        compressed: The nonzero values [n].
        bitmask: uint8 [rows, ceil(columns / 8)].
        row_offsets: int64 [rows].
        shape: int64 [2]: rows and columns.
    """

    compressed: torch.Tensor
    bitmask: torch.Tensor
    row_offsets: torch.Tensor
    shape: torch.Tensor

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self)


def pack(weight: torch.Tensor) -> Packed:
    """Return a weight [rows, columns] in the sparse-bitmask format.

    A negative zero becomes a zero, as everything that equals zero does.

    Raises:
        ValueError: The weight is not a matrix of float32, float16 or bfloat16.
    """
    if weight.ndim != 2 or weight.dtype not in DTYPES:
        raise ValueError(f"weight: given {weight.dtype} {list(weight.shape)}; allowed: a matrix of float32, float16 or bfloat16")
    mask = weight != 0
    counts = mask.sum(dim=1)
    bits = torch.from_numpy(np.packbits(mask.cpu().numpy(), axis=1, bitorder="little"))
    return Packed(weight[mask], bits.to(weight.device), counts.cumsum(0) - counts, torch.tensor(weight.shape))


def unpack(packed: Packed) -> torch.Tensor:
    """Return the dense weight [rows, columns] of a packed one that ``checked`` let pass."""
    rows, columns = packed.shape.tolist()
    out = torch.zeros(rows, columns, dtype=packed.compressed.dtype, device=packed.compressed.device)
    bits = torch.arange(8, dtype=torch.uint8, device=out.device)
    mask = (packed.bitmask[:, :, None] >> bits & 1).flatten(1)[:, :columns].bool()  # where the weight is: a GPU does not wait for the CPU
    return out.masked_scatter_(mask, packed.compressed)


def packed_bytes(weight: torch.Tensor) -> int:
    """Return the bytes of a weight [rows, columns] in the format, without packing it."""
    return int(torch.count_nonzero(weight)) * weight.itemsize + mask_bytes(*weight.shape)


def mask_bytes(rows: int, columns: int) -> int:
    """Return the bytes of all that the format stores beside the values: bitmask, row offsets and shape."""
    return rows * (-(-columns // 8) + 8) + 16


def stored_bytes(weight: torch.Tensor) -> int:
    """Return the bytes of a weight [rows, columns] in a file: packed, or dense where packing would not make it smaller."""
    return min(packed_bytes(weight), weight.nbytes)


def checked(packed: Packed, name: str) -> Packed:
    """Return a packed weight if its four tensors agree.

    Args:
        packed: The tensors as they were read, from a file that may be damaged or made to harm.
        name: What the message calls the weight.

    Raises:
        FormatError: They do not. One line says what is wrong.
    """

    def refuse(what: str):
        raise FormatError(f"{name}: {what}; the file is damaged or not in the {NAME} format: export the model again")

    compressed, bitmask, offsets, shape = packed
    if shape.dtype != torch.int64 or shape.shape != (2,) or min(shape.tolist()) < 1:
        refuse(f"its shape is {shape.flatten().tolist()[:4]} ({shape.dtype}), not two numbers of at least 1 (int64)")
    rows, columns = shape.tolist()
    if compressed.ndim != 1 or compressed.dtype not in DTYPES:
        refuse(f"its values are {compressed.dtype} {list(compressed.shape)}, not a row of float32, float16 or bfloat16")
    if bitmask.dtype != torch.uint8 or bitmask.shape != (rows, -(-columns // 8)):
        refuse(f"its bitmask is {bitmask.dtype} {list(bitmask.shape)}, not uint8 {[rows, -(-columns // 8)]}")
    if offsets.dtype != torch.int64 or offsets.shape != (rows,):
        refuse(f"its row offsets are {offsets.dtype} {list(offsets.shape)}, not int64 {[rows]}")
    if columns % 8 and bool((bitmask[:, -1] >> (columns % 8)).any()):
        refuse(f"its bitmask has bits beyond column {columns}")
    counts = torch.from_numpy(np.bitwise_count(bitmask.cpu().numpy()).sum(axis=1, dtype=np.int64))
    if not torch.equal(counts.cumsum(0) - counts, offsets.cpu()):
        refuse("its row offsets are not the sums of the bits before them")
    if int(counts.sum()) != len(compressed):
        refuse(f"its bitmask has {int(counts.sum()):,} bits set for {len(compressed):,} values")
    if not bool(torch.isfinite(compressed).all()):
        refuse("its values are not all finite")
    return packed
