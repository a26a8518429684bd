"""The kernel of ``kernel.c``: compiled once with the C compiler that is there, and called on torch's memory and threads."""

import contextlib
import ctypes
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch

from lottery.common.errors import LotteryError, ParamsError, on_one_line
from lottery.sparse.bitmask import Packed

SETS = ("portable", "avx2", "avx512f", "avx512_vbmi2")  # of instructions, as kernel.c numbers them; each needs those before it
FORCE = "LOTTERY_KERNEL"  # environment variable: one of SETS, or 'torch' for none
FEW = 8  # vectors; with more, unpacking a weight for torch's own product is faster
DTYPE_CODES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
_SOURCES = [Path(__file__).with_name(name) for name in ("decode.c", "kernel.c")]  # the first includes the others
_FLAGS = ["-O3", "-std=gnu11", "-fopenmp-simd", "-ffp-contract=fast", "-shared", "-fPIC", "-fvisibility=hidden"]


class KernelError(LotteryError):
    """There is no kernel on this machine; the message says why."""


class Product(ctypes.Structure):
    """``Product`` of kernel.c: addresses, sizes and dtypes of a weight and its vectors. It keeps none of the tensors alive."""

    _fields_ = (
        [(name, ctypes.c_void_p) for name in ("bits", "values", "offsets", "x", "y", "bias")]
        + [(name, ctypes.c_int64) for name in ("rows", "columns", "count", "batch")]
        + [(name, ctypes.c_int32) for name in ("dtype", "x_dtype")]
    )  # fmt: skip


def product_of(x: torch.Tensor, weight: torch.Tensor | Packed, bias: torch.Tensor | None, y: torch.Tensor) -> Product:
    """Return ``y = x @ weight.T + bias`` as the kernel takes it; all tensors contiguous."""
    sparse = isinstance(weight, Packed)
    values = weight.compressed if sparse else weight
    columns = x.shape[-1]
    return Product(
        weight.bitmask.data_ptr() if sparse else None, values.data_ptr(), weight.row_offsets.data_ptr() if sparse else None,
        x.data_ptr(), y.data_ptr(), None if bias is None else bias.data_ptr(),
        y.shape[-1], columns, values.numel(), x.numel() // columns, DTYPE_CODES[values.dtype], DTYPE_CODES[x.dtype],
    )  # fmt: skip


class _Layout(ctypes.Structure):
    _fields_ = (
        [(name, ctypes.c_void_p) for name in ("weight", "bits", "values", "offsets")]
        + [(name, ctypes.c_int64) for name in ("rows", "columns", "count")]
        + [("size", ctypes.c_int32)]
    )  # fmt: skip


class Kernel:
    """The compiled kernel.

    Attributes:
        instructions: The set of instructions that it uses, one of ``SETS``.
        isa: Its number in ``SETS``.
        library: The functions of decode.c and kernel.c.
    """

    def __init__(self, path: Path, wanted: str | None = None):
        self.library = ctypes.CDLL(str(path))
        best = self.library.lottery_best_isa()
        if wanted is not None and SETS.index(wanted) > best:
            raise KernelError(f"{FORCE}: given {wanted!r}, which this processor lacks; allowed: {', '.join(SETS[: best + 1])}, torch")
        self.isa = best if wanted is None else SETS.index(wanted)
        self.instructions = SETS[self.isa]
        if (openmp := _openmp()) is not None:
            functions = (ctypes.cast(getattr(openmp, name), ctypes.c_void_p) for name in ("GOMP_parallel", "omp_get_thread_num"))
            self.library.lottery_threads(*functions)

    def multiply(self, x: torch.Tensor, weight: torch.Tensor | Packed, bias: torch.Tensor | None = None) -> torch.Tensor:
        """Return ``x @ weight.T + bias`` with fp32 sums.

        Args:
            x: The vectors [..., columns]; float32, float16 or bfloat16, whatever the weight is.
            weight: A weight [rows, columns], dense, or in the sparse-bitmask format and checked.
            bias: Added to each product [rows].

        Returns:
            The products [..., rows], of the dtype of ``x``.

        Raises:
            ValueError: The vectors have another length than the rows of the weight.
        """
        rows, columns = weight.shape.tolist() if isinstance(weight, Packed) else weight.shape
        if x.shape[-1] != columns:
            raise ValueError(f"x: given vectors of {x.shape[-1]}; allowed: the weight's {columns}")
        x, weight = x.contiguous(), weight if isinstance(weight, Packed) else weight.contiguous()
        y, bias = torch.empty(*x.shape[:-1], rows, dtype=x.dtype), None if bias is None else bias.to(x.dtype).contiguous()
        product = product_of(x, weight, bias, y)
        if self.library.lottery_multiply(ctypes.byref(product), 1, self.isa, torch.get_num_threads()):
            raise MemoryError("no memory for a product of a sparse weight")
        return y

    def pack(self, weight: torch.Tensor) -> Packed:
        """Return a weight [rows, columns] in the sparse-bitmask format, as ``bitmask.pack`` does."""
        weight, (rows, columns) = weight.contiguous(), weight.shape
        bits, counts = torch.empty(rows, -(-columns // 8), dtype=torch.uint8), torch.empty(rows, dtype=torch.int64)
        layout = _Layout(weight.data_ptr(), bits.data_ptr(), None, counts.data_ptr(), rows, columns, 0, weight.itemsize)
        self.library.lottery_mark(ctypes.byref(layout), torch.get_num_threads())
        offsets = counts.cumsum(0) - counts
        values = torch.empty(int(counts.sum()), dtype=weight.dtype)
        layout.values, layout.offsets, layout.count = values.data_ptr(), offsets.data_ptr(), len(values)
        self.library.lottery_pack(ctypes.byref(layout), torch.get_num_threads())
        return Packed(values, bits, offsets, torch.tensor([rows, columns]))

    def unpack(self, packed: Packed, out: torch.Tensor | None = None) -> torch.Tensor:
        """Return the dense weight [rows, columns] of a packed and checked one, as ``bitmask.unpack`` does."""
        rows, columns = packed.shape.tolist()
        out = torch.empty(rows, columns, dtype=packed.compressed.dtype) if out is None else out
        layout = _Layout(
            out.data_ptr(), packed.bitmask.data_ptr(), packed.compressed.data_ptr(), packed.row_offsets.data_ptr(), rows, columns,
            packed.compressed.numel(), out.itemsize,
        )  # fmt: skip
        self.library.lottery_unpack(ctypes.byref(layout), torch.get_num_threads())
        return out


@cache
def kernel() -> Kernel:
    """Return the kernel for this machine, compiled where it is not yet.

    Raises:
        KernelError: There is no C compiler, or it fails, or ``LOTTERY_KERNEL`` is 'torch'. What needs it does without, and says so.
    """
    wanted = os.environ.get(FORCE) or None
    if wanted == "torch":
        raise KernelError(f"{FORCE} is 'torch'")
    if wanted is not None and wanted not in SETS:
        raise ParamsError(f"{FORCE}: given {wanted!r}; allowed: {', '.join(SETS)}, torch")
    return Kernel(compiled(), wanted)


def compiled() -> Path:
    """Return the compiled library, from the cache of the user where it is there."""
    compiler = [cc] if (cc := shutil.which("cc")) else [sys.executable, "-m", "ziglang", "cc"] if find_spec("ziglang") else None
    if compiler is None:
        raise KernelError("no C compiler (cc) is on the PATH; install one, or the ziglang package")
    inputs = [*(path.read_bytes() for path in _SOURCES), " ".join([*compiler, *_FLAGS]).encode()]
    made_of = hashlib.sha256(b"\0".join(inputs)).hexdigest()[:16]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lottery"
    path = folder / f"kernel-{made_of}.so"
    if path.exists():
        return path
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".kernel-") as part:
            made = Path(part) / path.name
            run = subprocess.run([*compiler, *_FLAGS, "-o", str(made), str(_SOURCES[0]), "-lm"], capture_output=True, text=True)
            if run.returncode:
                raise KernelError(f"{compiler[0]} cannot compile it: {on_one_line(run.stderr)}")
            made.replace(path)
    except OSError as error:
        raise KernelError(f"it cannot be compiled into {folder}: {error.strerror}") from error
    return path


def _openmp() -> ctypes.CDLL | None:
    """Return the OpenMP runtime that torch has loaded, whose threads the kernel shares; ``None`` where none is seen."""
    maps = Path("/proc/self/maps")
    loaded = re.findall(r"/\S+/lib(?:gomp|iomp5|omp)[^/\s]*\.so\S*", maps.read_text()) if maps.exists() else []
    for path in dict.fromkeys(loaded):
        with contextlib.suppress(OSError, AttributeError):
            library = ctypes.CDLL(path)
            _ = library.GOMP_parallel, library.omp_get_thread_num
            return library
    return None
