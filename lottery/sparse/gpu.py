"""The kernel of ``kernel.cu``: compiled by NVRTC for the GPU that is there, launched on torch's stream, and known to torch as an operator.

``torch.ops.lottery.sparse_linear`` is what ``SparseLinear`` calls on a GPU. On a CPU it is the kernel of ``kernel.c``.
"""

import ctypes
import os
from functools import cache
from pathlib import Path
from types import ModuleType

import torch

from lottery.common.errors import on_one_line
from lottery.sparse.bitmask import Packed
from lottery.sparse.kernel import FEW, FORCE, KernelError, Product, kernel, product_of

WARPS = 4  # of a block, as in kernel.cu; each computes a row
_SOURCE = Path(__file__).with_name("kernel.cu")
_NAMES = {torch.float32: "float", torch.float16: "F16", torch.bfloat16: "BF16"}  # of dtypes in kernel.cu


def multiply(
    x: torch.Tensor, values: torch.Tensor, bitmask: torch.Tensor, row_offsets: torch.Tensor, bias: torch.Tensor | None, columns: int
) -> torch.Tensor:
    """Return ``x @ weight.T + bias`` with fp32 sums, for a weight [rows, columns] in the sparse-bitmask format that ``checked`` let pass.

    Args:
        x: 1 to ``FEW`` vectors [..., columns] on a GPU; float32, float16 or bfloat16, whatever the weight is.
        values: ``Packed.compressed``.
        bitmask: ``Packed.bitmask``: uint8 [rows, ceil(columns / 8)].
        row_offsets: ``Packed.row_offsets``: int64 [rows].
        bias: Added to each product [rows].
        columns: Of the weight.

    Returns:
        The products [..., rows], of the dtype of ``x``. Torch's stream computes them; the call does not wait.

    Raises:
        ValueError: The vectors have another length than the rows of the weight, or are too many.
        KernelError: There is no kernel for this GPU.
    """
    batch, rows = x.numel() // columns, len(bitmask)
    if x.shape[-1] != columns or not 1 <= batch <= FEW:
        raise ValueError(f"x: given {batch} vectors of {x.shape[-1]}; allowed: 1 to {FEW} of the weight's {columns}")
    x, bias = x.contiguous(), None if bias is None else bias.to(x.dtype).contiguous()
    y, weight = torch.empty(*x.shape[:-1], rows, dtype=x.dtype, device=x.device), _packed(values, bitmask, row_offsets, columns)
    _launch(x.device, (_NAMES[values.dtype], _NAMES[x.dtype], batch), -(-rows // WARPS), product_of(x, weight, bias, y))
    return y


def _packed(values: torch.Tensor, bitmask: torch.Tensor, row_offsets: torch.Tensor, columns: int) -> Packed:
    return Packed(values, bitmask, row_offsets, torch.tensor([len(bitmask), columns]))


sparse_linear = torch.library.custom_op("lottery::sparse_linear", multiply, mutates_args=(), device_types="cuda")


@sparse_linear.register_fake
def _(x, values, bitmask, row_offsets, bias, columns):
    return x.new_empty(*x.shape[:-1], bitmask.shape[0])


@sparse_linear.register_kernel("cpu")
def _(x, values, bitmask, row_offsets, bias, columns):
    return kernel().multiply(x, _packed(values, bitmask, row_offsets, columns), bias)


@cache
def why_not(architecture: str) -> str:
    """Return why there is no kernel for an architecture such as 'sm_75'; '' where there is one."""
    if os.environ.get(FORCE) == "torch":
        return f"{FORCE} is 'torch'"
    try:
        compiled(architecture, "float", "float", 1)
    except KernelError as error:
        return str(error)
    return ""


def architecture_of(device: torch.device) -> str:
    """Return the architecture of a GPU as NVRTC names it: 'sm_75' for compute capability 7.5."""
    return "sm_{}{}".format(*torch.cuda.get_device_capability(device))


@cache
def compiled(architecture: str, values: str, vectors: str, batch: int) -> bytes:
    """Return machine code of the kernel. It takes about 0.1 s and no GPU.

    Args:
        architecture: Such as 'sm_75'.
        values: The dtype of the values, as kernel.cu names it: 'float', 'F16' or 'BF16'.
        vectors: The dtype of the vectors.
        batch: How many vectors.

    Raises:
        KernelError: NVRTC is not installed, does not know the architecture, or refuses the source.
    """
    nvrtc = _nvrtc()
    known = [f"sm_{number}" for number in _done(nvrtc, nvrtc.nvrtcGetSupportedArchs())]
    if architecture not in known:
        raise KernelError(
            f"this NVRTC compiles for {', '.join(known)}, not for {architecture}; install one that does, or load dense weights"
        )
    program = _done(nvrtc, nvrtc.nvrtcCreateProgram(_SOURCE.read_bytes(), _SOURCE.name.encode(), 0, [], []))
    given = {"VALUES": values, "VECTORS": vectors, "BATCH": batch}
    # No overload is used for every pair of dtypes, which is what warning 177 tells.
    options = [
        f"--gpu-architecture={architecture}",
        "--std=c++17",
        "--diag-suppress=177",
        *(f"-D{key}={what}" for key, what in given.items()),
    ]
    try:
        (result,) = nvrtc.nvrtcCompileProgram(program, len(options), [option.encode() for option in options])
        if int(result):
            log = _text(nvrtc, nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog, program).decode(errors="replace").rstrip("\0")
            raise KernelError(f"NVRTC cannot compile {_SOURCE.name}: {on_one_line(log)}")
        return _text(nvrtc, nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN, program)
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def _nvrtc() -> ModuleType:
    try:
        from cuda.bindings import nvrtc

        nvrtc.nvrtcVersion()  # which looks for the library
    except (ImportError, RuntimeError, OSError) as error:
        packages = '"cuda-bindings==12.*" nvidia-cuda-nvrtc-cu12'
        raise KernelError(f"there is no NVRTC; install a torch that is built for CUDA, or: pip install {packages}") from error
    return nvrtc


def _text(nvrtc: ModuleType, size_of, get, program) -> bytes:
    text = b" " * _done(nvrtc, size_of(program))
    get(program, text)
    return text


def _done(library: ModuleType, answer: tuple):
    """Return what a function of ``cuda.bindings`` gives beside its status, which must be success."""
    status, *found = answer
    if int(status):
        raise KernelError(f"{library.__name__.rpartition('.')[2]} answers {status.name}")
    return found[0] if found else None


def _launch(device: torch.device, program: tuple, blocks: int, product: Product) -> None:
    """Start the kernel on torch's stream. It returns at once; ``product`` is copied."""
    from cuda.bindings import driver

    with torch.cuda.device(device):
        given, stream = (ctypes.c_void_p * 1)(ctypes.addressof(product)), driver.CUstream(torch.cuda.current_stream().cuda_stream)
        place = blocks, 1, 1, WARPS * 32, 1, 1, 0, stream
        _done(driver, driver.cuLaunchKernel(_function(torch.cuda.current_device(), *program), *place, ctypes.addressof(given), 0))


@cache
def _function(device: int, *program):
    """Load a kernel into the context of a GPU, where it stays."""
    from cuda.bindings import driver

    module = _done(driver, driver.cuModuleLoadData(compiled(architecture_of(torch.device("cuda", device)), *program)))
    return _done(driver, driver.cuModuleGetFunction(module, b"multiply"))
