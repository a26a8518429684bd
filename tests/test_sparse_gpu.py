"""The GPU's kernel: emulated on the host against fp64, compiled for four architectures, and run where there is a GPU."""

import ctypes
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from lottery.sparse import gpu
from lottery.sparse.bitmask import DTYPES, Packed, pack, unpack
from lottery.sparse.kernel import FEW, KernelError
from lottery.sparse.linear import SparseLinear
from tests.conftest import ROOT, need, need_compiler
from tests.test_sparse_bitmask import sparse
from tests.test_sparse_kernel import TOLERANCE, product

need_compiler("c++")

BATCHES = (1, 2, 3, 8)  # that the emulation is compiled for
on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")


def nvrtc_installed():
    try:
        return bool(gpu._nvrtc())
    except KernelError:
        return False


def need_nvrtc():
    need(nvrtc_installed(), "NVRTC (make .venv/tasks)")


@pytest.fixture(scope="module")
def emulated(tmp_path_factory):
    """The product of gpu.py, its launches emulated on the host."""
    library = tmp_path_factory.mktemp("gpu") / "emulated.so"
    source, flags = ROOT / "tests" / "emulated_gpu.cpp", ["-O1", "-std=c++17", "-shared", "-fPIC", "-fno-strict-aliasing"]
    flags += ["-fsanitize=alignment", "-fsanitize-undefined-trap-on-error"]  # a GPU reads no word that does not begin where words do
    warnings = ["-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]
    subprocess.run(["c++", *flags, *warnings, f"-I{ROOT / 'lottery' / 'sparse'}", "-o", str(library), str(source)], check=True)
    emulate = ctypes.CDLL(str(library)).emulate

    def launch(device, program, blocks, product):
        names = ("float", "F16", "BF16")
        assert program == (names[product.dtype], names[product.x_dtype], product.batch)
        assert emulate(ctypes.byref(product), blocks) == 0, "lanes of a warp part ways at a shuffle"

    def multiply(x, weight, bias=None):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(gpu, "_launch", launch)
            return gpu.multiply(x, *weight[:3], bias, x.shape[-1])

    return multiply


def between(tensor, rest, shift=0):
    """The same tensor in memory with something else before and behind it, ``shift`` numbers off the place where memory was taken."""
    memory = torch.full((64 + shift + tensor.numel() + 64,), rest, dtype=tensor.dtype)
    found = memory[64 + shift : 64 + shift + tensor.numel()].view(tensor.shape)
    return found.copy_(tensor)


def check(emulated, rows, columns, density, batch, dtype, x_dtype, biased, seed=0, shifts=(0, 0, 0)):
    """Beside what belongs to it lie numbers that would spoil any sum."""
    weight, random = sparse(rows, columns, density, dtype, seed), torch.Generator().manual_seed(seed + 1)
    packed, x = pack(weight), torch.randn(batch, columns, generator=random).to(x_dtype)
    bias = torch.randn(rows, generator=random).to(x_dtype) if biased else None
    exact, terms = product(x, weight, bias)
    packed = packed._replace(compressed=between(packed.compressed, torch.nan, shifts[0]), bitmask=between(packed.bitmask, 255, shifts[1]))
    got = emulated(between(x, torch.nan, shifts[2]), packed, bias)
    assert (got.dtype, got.shape) == (x_dtype, (batch, rows))
    assert ((got.double() - exact).abs() <= TOLERANCE[x_dtype] * terms).all()


@pytest.mark.parametrize("x_dtype", DTYPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_it_agrees_with_fp64_for_every_pair_of_dtypes(emulated, dtype, x_dtype):
    for density in (0, 0.1, 0.5, 1):
        for batch in BATCHES:
            check(emulated, 6, 1312, density, batch, dtype, x_dtype, biased=batch > 1)  # a tile of 32 words, and nine more


@settings(deadline=None, max_examples=60)
@given(
    rows=st.integers(1, 13), columns=st.one_of(st.integers(1, 300), st.integers(1000, 1100), st.sampled_from([32, 1024, 1056, 2080])),
    density=st.sampled_from([0, 0.02, 0.2, 0.5, 0.9, 1]), batch=st.sampled_from(BATCHES), dtype=st.sampled_from(DTYPES),
    wide=st.booleans(), biased=st.booleans(), seed=st.integers(0, 99), shifts=st.tuples(*[st.integers(0, 2)] * 3),
)  # fmt: skip
def test_it_agrees_with_fp64_for_every_shape(emulated, rows, columns, density, batch, dtype, wide, biased, seed, shifts):
    check(emulated, rows, columns, density, batch, dtype, torch.float32 if wide else dtype, biased, seed, shifts)


@pytest.mark.parametrize("shifts", [(1, 0, 0), (0, 1, 0), (0, 0, 1)])
def test_values_bits_and_vectors_may_begin_anywhere_in_memory(emulated, shifts):
    for dtype in DTYPES:
        check(emulated, 3, 1056, 0.5, 2, dtype, dtype, biased=False, shifts=shifts)


@pytest.mark.parametrize("columns", [1, 31, 33, 128, 130, 1024])
@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_of_zeros_and_the_last_column(emulated, dtype, columns):
    weight = sparse(9, columns, 0.4, dtype)
    weight[2:7] = 0
    weight[-1, -1] = 2.0
    x = torch.zeros(1, columns, dtype=dtype)
    x[0, -1] = 1.0
    assert torch.equal(emulated(x, pack(weight))[0], weight[:, -1])


def test_every_weight_is_multiplied_by_its_own_column(emulated):
    """Numbers that fp32 adds without rounding, so that any bit out of place shows."""
    weight = torch.randint(1, 8, (5, 1200)).float() * (torch.rand(5, 1200) < 0.3)
    x = torch.randint(-8, 8, (2, 1200)).float()
    assert torch.equal(emulated(x, pack(weight)), x @ weight.T)
    assert torch.equal(emulated(x[:1], pack(weight)), x[:1] @ weight.T)


@pytest.mark.parametrize("number", [1.0, 1.0 + 2**-7, 3e38, -7e-6, float("inf"), float("nan")])
def test_results_are_rounded_to_bfloat16_as_torch_rounds(emulated, number):
    """On a GPU that has no instruction for it, too."""
    bias, small = torch.tensor([number]).bfloat16(), torch.tensor([[2.0**-8]]).bfloat16()  # half of the last bit of 1.0
    got, want = emulated(torch.ones(1, 1).bfloat16(), pack(small), bias)[0], (bias.float() + small[0].float()).bfloat16()
    assert torch.equal(got, want) or (got.isnan().all() and want.isnan().all())


def test_too_many_vectors_and_vectors_of_another_length_are_refused(emulated):
    packed = pack(torch.ones(3, 64))
    with pytest.raises(ValueError, match="x: given 9 vectors of 64; allowed: 1 to 8 of the weight's 64"):
        emulated(torch.zeros(FEW + 1, 64), packed)
    with pytest.raises(ValueError, match="x: given 0 vectors of 63; allowed: 1 to 8 of the weight's 64"):
        gpu.multiply(torch.zeros(1, 63), *packed[:3], None, 64)


def operands(rows=5, columns=70, tokens=2, device="cpu"):
    packed = pack(sparse(rows, columns, 0.4))
    return [
        torch.randn(tokens, columns, device=device),
        *(part.to(device) for part in packed[:3]),
        torch.randn(rows, device=device),
        columns,
    ]


def test_torch_finds_no_fault_in_the_operator():
    """On a CPU, where it is the kernel of kernel.c: its schema, and that it says truly what its result looks like."""
    torch.library.opcheck(gpu.sparse_linear, operands(), test_utils=("test_schema", "test_faketensor"))


def test_a_layer_on_a_gpu_calls_the_operator_for_few_tokens_only(monkeypatch):
    """With fake tensors, which say they are on a GPU."""
    called, layer = [], SparseLinear(pack(sparse(5, 70, 0.4)), torch.randn(5))
    monkeypatch.setattr(gpu, "architecture_of", lambda device: "sm_75")
    monkeypatch.setattr(gpu, "why_not", lambda architecture: "")
    monkeypatch.setattr(gpu, "sparse_linear", lambda *given: called.append(len(given[0])) or torch.ops.lottery.sparse_linear(*given))
    with FakeTensorMode():
        for name, part in list(layer._buffers.items()):
            layer._buffers[name] = torch.empty(part.shape, dtype=part.dtype, device="cuda")
        monkeypatch.setattr(layer, "dense_weight", lambda: torch.empty(5, 70, device="cuda"))
        for tokens in (1, FEW, FEW + 1):
            y = layer(torch.empty(tokens, 70, dtype=torch.float16, device="cuda"))
            assert (y.shape, y.dtype, y.device.type) == ((tokens, 5), torch.float16, "cuda")
    assert called == [1, FEW]


def test_without_nvrtc_the_reason_is_one_line(monkeypatch):
    gpu.why_not.cache_clear()
    gpu.compiled.cache_clear()
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    assert (
        gpu.why_not("sm_75")
        == 'there is no NVRTC; install a torch that is built for CUDA, or: pip install "cuda-bindings==12.*" nvidia-cuda-nvrtc-cu12'
    )
    gpu.why_not.cache_clear()
    monkeypatch.setenv("LOTTERY_KERNEL", "torch")
    assert gpu.why_not("sm_75") == "LOTTERY_KERNEL is 'torch'"
    gpu.why_not.cache_clear()


ARCHITECTURES = ["sm_70", "sm_75", "sm_80", "sm_90"]  # V100, T4, A100, H100


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_nvrtc_compiles_it_without_a_gpu(architecture):
    need_nvrtc()
    if architecture not in [f"sm_{number}" for number in gpu._nvrtc().nvrtcGetSupportedArchs()[1]]:
        pytest.skip(f"this NVRTC no longer compiles for {architecture}")
    names, at = list(gpu._NAMES.values()), ARCHITECTURES.index(architecture)
    programs = [(values, names[(n + at) % 3], 1 + (n * 3 + at * 2) % FEW) for n, values in enumerate(names)]  # others for each architecture
    codes = [gpu.compiled(architecture, *program) for program in programs]
    assert all(code.startswith(b"\x7fELF") and b"multiply" in code for code in codes)


def test_what_nvrtc_refuses_is_told_in_one_line(monkeypatch, tmp_path):
    need_nvrtc()
    broken = tmp_path / "kernel.cu"
    broken.write_text("no such thing;\n")
    monkeypatch.setattr(gpu, "_SOURCE", broken)
    with pytest.raises(KernelError, match=r"NVRTC cannot compile kernel\.cu: .*error") as error:
        gpu.compiled.__wrapped__("sm_75", "float", "float", 1)
    assert "\n" not in str(error.value)
    with pytest.raises(KernelError, match=r"this NVRTC compiles for .*sm_75.*, not for sm_1; install one that does, or load dense weights"):
        gpu.compiled("sm_1", "float", "float", 1)


@on_a_gpu
@pytest.mark.parametrize("dtype", DTYPES)
def test_on_a_gpu_it_agrees_with_fp64_and_with_itself_to_the_bit(dtype):
    for rows, columns in ((1, 1), (3, 7), (13, 200), (70, 576), (300, 4096)):
        for density in (0, 0.1, 0.5, 1):
            weight = sparse(rows, columns, density, dtype)
            packed = Packed(*(part.cuda() for part in pack(weight)))
            assert torch.equal(unpack(packed).cpu(), weight)
            for batch in range(1, FEW + 1):
                x, bias = torch.randn(batch, columns).to(dtype), torch.randn(rows).to(dtype)
                exact, terms = product(x, weight, bias)
                got = [gpu.sparse_linear(x.cuda(), *packed[:3], bias.cuda(), columns).cpu() for _ in range(2)]
                assert ((got[0].double() - exact).abs() <= TOLERANCE[dtype] * terms).all()
                assert torch.equal(*got)


@on_a_gpu
def test_on_a_gpu_torch_finds_no_fault_in_the_operator():
    torch.library.opcheck(gpu.sparse_linear, operands(device="cuda"))
