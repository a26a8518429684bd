"""The kernel against fp64, with every set of instructions of this processor, and what happens where there is none."""

import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lottery.common.errors import ParamsError
from lottery.common.paths import project_root
from lottery.sparse import kernel as module
from lottery.sparse.bitmask import DTYPES, Packed, pack
from lottery.sparse.kernel import FEW, FORCE, SETS, Kernel, KernelError, kernel
from lottery.sparse.linear import SparseLinear
from tests.conftest import need_compiler
from tests.test_sparse_bitmask import sparse

need_compiler()

PATH = module.compiled()
BEST = Kernel(PATH)
KERNELS = [Kernel(PATH, name) for name in SETS[: BEST.isa + 1]]
# Of the sum of absolute products: fp32 sums of a few hundred, bf16 products of halves of x, and the rounding of the result.
TOLERANCE = {torch.float32: 4e-7, torch.float16: 1e-3, torch.bfloat16: 8e-3}


def product(x, weight, bias):
    """The product in fp64, and the sum of the absolute terms of each of its numbers."""
    exact = x.double() @ weight.double().T + (bias.double() if bias is not None else 0)
    terms = x.double().abs() @ weight.double().abs().T + (bias.double().abs() if bias is not None else 0)
    return exact, terms + 1e-30


@settings(deadline=None, max_examples=120)
@given(
    rows=st.integers(1, 70), columns=st.integers(1, 400), density=st.sampled_from([0, 0.02, 0.2, 0.5, 0.9, 1]), batch=st.integers(1, 9),
    dtype=st.sampled_from(DTYPES), wide=st.booleans(), biased=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
def test_every_set_of_instructions_agrees_with_fp64(rows, columns, density, batch, dtype, wide, biased, seed):
    weight = sparse(rows, columns, density, dtype, seed)
    x_dtype = torch.float32 if wide else dtype
    random = torch.Generator().manual_seed(seed + 1)
    x = torch.randn(batch, columns, generator=random).to(x_dtype)
    bias = torch.randn(rows, generator=random).to(x_dtype) if biased else None
    exact, terms = product(x, weight, bias)
    allowed = max(TOLERANCE[x_dtype], 2e-5 if dtype == torch.bfloat16 else 0)
    for one, expands in itertools.product(KERNELS, (0, 1)):  # vexpandps, or permutations from a table
        one.library.lottery_expands(expands)
        for given_weight in (weight, pack(weight)):
            got = one.multiply(x, given_weight, bias)
            assert (got.dtype, got.shape) == (x_dtype, (batch, rows))
            assert ((got.double() - exact).abs() <= allowed * terms).all(), (one.instructions, expands, isinstance(given_weight, Packed))
    BEST.library.lottery_best_isa()  # chooses for this processor again


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("one", KERNELS, ids=lambda one: one.instructions)
def test_results_are_equal_to_the_bit_from_run_to_run_and_on_any_number_of_threads(one, dtype):
    weight, x, before = pack(sparse(999, 777, 0.4, dtype)), torch.randn(3, 777), torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3, 1):
            torch.set_num_threads(threads)
            results.append(one.multiply(x, weight))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(results[0], other) for other in results[1:])


def test_it_shares_the_threads_of_torch():
    assert module._openmp() is not None, "torch's OpenMP is loaded on every Linux"


def test_vectors_of_another_length_are_refused():
    for weight in (torch.zeros(3, 64), pack(torch.zeros(3, 64))):
        with pytest.raises(ValueError, match="x: given vectors of 63; allowed: the weight's 64"):
            BEST.multiply(torch.zeros(1, 63), weight)


def test_a_layer_takes_vectors_of_any_dtype_whatever_its_values_are():
    dense = torch.nn.Linear(64, 5)
    layer = SparseLinear.of(dense.half())
    for dtype in DTYPES:
        for tokens in (1, module.FEW + 1):
            assert layer(torch.ones(tokens, 64, dtype=dtype)).dtype == dtype


@pytest.mark.parametrize("one", KERNELS, ids=lambda one: one.instructions)
@pytest.mark.parametrize("density", [0.1, 0.6])
@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_of_zeros_and_the_last_values_of_a_weight(one, dtype, density):
    """The last rows are those behind which nothing may be read."""
    weight = sparse(20, 130, density, dtype)
    weight[3:9] = 0
    weight[-1, -1] = 2.0
    x = torch.zeros(1, 130, dtype=dtype)
    x[0, -1] = 1.0
    found = one.multiply(x, pack(weight))[0]
    assert torch.equal(found, weight[:, -1])


@pytest.mark.parametrize(
    "number", [1.0 + 2**-11, 65519.0, 65520.0, 1e30, 2.0**-24, 2.0**-25, 3 * 2.0**-26, -7e-6, float("inf"), float("nan")]
)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_results_are_rounded_to_16_bits_as_torch_rounds(number, dtype):
    bias = torch.tensor([number]).to(dtype)  # exact in dtype; what is added is not
    small = torch.tensor([[2.0**-13]]).to(dtype)
    for one in KERNELS:
        got = one.multiply(torch.ones(1, 1, dtype=dtype), small, bias)
        want = (bias.float() + small[0].float()).to(dtype)
        assert torch.equal(got[0], want) or (got.isnan().all() and want.isnan().all()), one.instructions


def test_an_environment_variable_forces_a_set_of_instructions(monkeypatch):
    for name in SETS[: BEST.isa + 1]:
        kernel.cache_clear()
        monkeypatch.setenv(FORCE, name)
        assert kernel().instructions == name
    kernel.cache_clear()
    monkeypatch.setenv(FORCE, "sse9")
    with pytest.raises(ParamsError, match=r"LOTTERY_KERNEL: given 'sse9'; allowed: portable, avx2, avx512f, avx512_vbmi2, torch"):
        kernel()
    monkeypatch.delenv(FORCE)
    kernel.cache_clear()


def test_what_the_processor_lacks_is_refused(monkeypatch):
    monkeypatch.setattr(module, "SETS", (*SETS, "amx"))
    with pytest.raises(KernelError, match="given 'amx', which this processor lacks; allowed: portable"):
        Kernel(PATH, "amx")


@pytest.fixture
def without(monkeypatch):
    """A machine without a kernel, for the reason given."""

    def hide(reason):
        kernel.cache_clear()
        if reason == "torch":
            monkeypatch.setenv(FORCE, "torch")
        else:
            monkeypatch.setattr(module.shutil, "which", lambda name: None)
            monkeypatch.setattr(module, "find_spec", lambda name: None)

    yield hide
    monkeypatch.undo()
    kernel.cache_clear()


@pytest.mark.parametrize(("reason", "words"), [("torch", "LOTTERY_KERNEL is 'torch'"), ("none", "no C compiler (cc) is on the PATH")])
def test_without_a_kernel_torch_does_it_and_the_reason_is_said(without, reason, words):
    without(reason)
    dense = torch.nn.Linear(100, 30)
    with torch.no_grad():
        dense.weight.copy_(sparse(30, 100, 0.5))
    layer, x = SparseLinear.of(dense), torch.randn(2, 3, 100)
    assert words in layer.kernel_reason
    with torch.no_grad():
        assert torch.equal(layer(x), dense(x))


def test_a_compiler_that_fails_is_told_in_one_line(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(module, "_FLAGS", ["-no-such-flag"])
    with pytest.raises(KernelError, match=r"cannot compile it: .*no-such-flag") as error:
        module.compiled()
    assert "\n" not in str(error.value)
    assert list((tmp_path / "lottery").iterdir()) == []


def test_it_is_compiled_once_and_again_when_its_source_changes(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = module.compiled()
    made = first.stat().st_mtime_ns
    assert module.compiled() == first
    assert first.stat().st_mtime_ns == made
    monkeypatch.setattr(module, "_FLAGS", [*module._FLAGS, "-DANYTHING"])
    assert module.compiled() != first


@pytest.mark.parametrize("flags", [["-DLOTTERY_PORTABLE"], []])
def test_it_compiles_without_a_warning(flags, tmp_path):
    """Without x86, too, as on a processor of another kind."""
    run = [
        shutil.which("cc"),
        *module._FLAGS,
        *flags,
        "-Wall",
        "-Wextra",
        "-Werror",
        "-o",
        str(tmp_path / "k.so"),
        str(module._SOURCES[0]),
        "-lm",
    ]
    assert subprocess.run(run, capture_output=True, text=True).stderr == ""


ZIG = [sys.executable, "-m", "ziglang", "cc"]


@pytest.mark.tasks
def test_where_there_is_no_cc_zig_compiles_the_same(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(module.shutil, "which", lambda name: None)
    path = module.compiled()
    weight, x = pack(sparse(70, 300, 0.4)), torch.randn(2, 300)
    for one in KERNELS:
        other = Kernel(path, one.instructions)
        assert torch.allclose(other.multiply(x, weight), one.multiply(x, weight), rtol=1e-5, atol=1e-5)
    assert Kernel(path).instructions == BEST.instructions, "it finds the same processor"


@pytest.mark.tasks
@pytest.mark.parametrize("target", ["aarch64-linux-gnu", "x86_64-linux-gnu.2.17", "powerpc64-linux-musl"])
def test_it_compiles_for_other_machines(target, tmp_path):
    """A processor without x86, an old glibc, and one that keeps bytes the other way round."""
    run = [*ZIG, "-target", target, *module._FLAGS, "-Wall", "-Werror", "-o", str(tmp_path / "k.so"), str(module._SOURCES[0]), "-lm"]
    assert subprocess.run(run, capture_output=True, text=True).returncode == 0


def test_a_layer_multiplies_few_tokens_by_the_kernel_and_many_by_torch():
    dense = torch.nn.Linear(300, 70)
    with torch.no_grad():
        dense.weight.copy_(sparse(70, 300, 0.3))
        layer = SparseLinear.of(dense)
        for tokens in (1, 5, module.FEW, module.FEW + 1, 60):
            x = torch.randn(1, tokens, 300)
            assert torch.allclose(layer(x), dense(x), atol=1e-5)
            assert torch.equal(layer(x), dense(x)) == (tokens > module.FEW)
    assert sorted(layer.state_dict()) == ["bias", "bitmask", "compressed", "row_offsets", "shape"]


SANITIZED = """
import sys; sys.path.insert(0, {root!r})
from pathlib import Path
import torch
from lottery.sparse import kernel as module
from lottery.sparse.bitmask import DTYPES, pack
from tests.conftest import need_compiler
from tests.test_sparse_bitmask import sparse
library = Path({library!r})
for name in module.SETS[: module.Kernel(library).isa + 1]:
    one = module.Kernel(library, name)
    for dtype, expands in [(dtype, expands) for dtype in DTYPES for expands in (0, 1)]:
        one.library.lottery_expands(expands)
        for rows, columns in ((1, 1), (3, 7), (2, 8), (5, 63), (4, 64), (9, 65), (33, 200), (70, 576)):
            for density in (0, 0.1, 0.5, 1):
                weight = sparse(rows, columns, density, dtype)
                packed = one.pack(weight)
                assert torch.equal(one.unpack(packed), weight)
                for batch in (1, 2, 3, 4, 7):
                    for x in (torch.randn(batch, columns), torch.randn(batch, columns).to(dtype)):
                        one.multiply(x, weight), one.multiply(x, packed, torch.zeros(rows, dtype=x.dtype))
print("clean")
"""


def test_sanitizers_find_no_fault_in_memory_and_nothing_undefined(tmp_path):
    found = {
        name: subprocess.run(["cc", f"-print-file-name=lib{name}.so"], capture_output=True, text=True).stdout.strip()
        for name in ("asan", "ubsan")
    }
    if missing := [name for name, path in found.items() if not Path(path).is_absolute()]:
        pytest.skip(f"this compiler has no {' and no '.join(missing)}")
    library = tmp_path / "kernel.so"
    flags = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-g", "-O1"]
    subprocess.run(["cc", *module._FLAGS, *flags, "-o", str(library), str(module._SOURCES[0]), "-lm"], check=True)
    script = SANITIZED.format(root=str(project_root()), library=str(library))
    # Python itself leaks by design, and torch brings libraries of its own: what counts is what the kernel reads and writes.
    environment = os.environ | {
        "LD_PRELOAD": " ".join(found.values()),
        "ASAN_OPTIONS": "detect_leaks=0:verify_asan_link_order=0",
        "OMP_NUM_THREADS": "2",
        "PYTHONMALLOC": "malloc",
    }
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, cwd=project_root())
    assert run.stdout.strip() == "clean", run.stderr[-3000:]


def test_layers_share_the_memory_that_they_unpack_into():
    """Large and small in turns, in several dtypes, in and outside inference: each product is that of its own weight."""
    shapes, dtypes = ((64, 96), (200, 30), (16, 8)), (torch.float32, torch.bfloat16)
    layers = [torch.nn.Linear(*shape, dtype=dtype) for shape in shapes for dtype in dtypes]
    for inference in (True, False, True):
        for layer in layers:
            with torch.inference_mode(inference):
                x = torch.randn(FEW + 1, layer.in_features, dtype=layer.weight.dtype)
                torch.testing.assert_close(SparseLinear.of(layer)(x), layer(x), rtol=1e-2, atol=1e-2)
