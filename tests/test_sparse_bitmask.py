"""The sparse-bitmask format: what is stored, what comes back, and what is refused."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lottery.sparse import bitmask
from lottery.sparse.bitmask import DTYPES, FormatError, Packed, checked, pack, packed_bytes, unpack
from lottery.sparse.kernel import kernel
from tests.conftest import need_compiler

need_compiler()


def sparse(rows, columns, density, dtype=torch.float32, seed=0):
    random = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=random)
    return torch.where(torch.rand(rows, columns, generator=random) < density, weight, 0).to(dtype)


def test_a_weight_is_stored_as_its_values_its_bits_and_where_its_rows_begin():
    weight = torch.zeros(3, 10)
    weight[0, 0], weight[0, 9], weight[2, 3] = 1.5, -2.0, 4.0
    found = pack(weight)
    assert found.compressed.tolist() == [1.5, -2.0, 4.0]
    assert found.bitmask.tolist() == [[1, 2], [0, 0], [8, 0]]
    assert found.row_offsets.tolist() == [0, 2, 2]
    assert found.shape.tolist() == [3, 10]
    assert [part.dtype for part in found] == [torch.float32, torch.uint8, torch.int64, torch.int64]


@settings(deadline=None, max_examples=60)
@given(
    rows=st.integers(1, 40), columns=st.integers(1, 200), density=st.sampled_from([0, 0.05, 0.5, 0.95, 1]), dtype=st.sampled_from(DTYPES), seed=st.integers(0, 9)
)  # fmt: skip
def test_it_comes_back_to_the_bit_by_torch_and_by_the_kernel(rows, columns, density, dtype, seed):
    weight = sparse(rows, columns, density, dtype, seed)
    for packer in (bitmask, kernel()):
        packed = checked(packer.pack(weight), "w")
        assert all(torch.equal(one, other) for one, other in zip(packed, pack(weight), strict=True))
        assert packed.nbytes == packed_bytes(weight)
        for unpacker in (bitmask, kernel()):
            assert torch.equal(unpacker.unpack(packed), weight)
        assert torch.equal(kernel().unpack(packed, out=torch.full_like(weight, math.nan)), weight)


def test_a_weight_of_columns_first_memory_is_packed_as_it_reads():
    weight = sparse(30, 70, 0.5).T
    assert torch.equal(unpack(kernel().pack(weight)), weight)


def test_what_equals_zero_is_no_value():
    weight = torch.tensor([[-0.0, 0.0, 1e-45, math.nan]])
    for packer in (bitmask, kernel()):
        assert packer.pack(weight).bitmask.tolist() == [[0b1100]]


@pytest.mark.parametrize(("dtype", "mask"), [(torch.float32, 1 / 32), (torch.float16, 1 / 16), (torch.bfloat16, 1 / 16)])
@pytest.mark.parametrize("density", [0.1, 0.3, 0.5])
def test_it_takes_the_density_and_a_bit_for_each_weight(dtype, mask, density):
    weight = sparse(256, 2048, density, dtype)
    true = float(torch.count_nonzero(weight)) / weight.numel()
    assert packed_bytes(weight) / weight.nbytes == pytest.approx(true + mask, abs=0.01)


@pytest.mark.parametrize("weight", [torch.zeros(3), torch.zeros(2, 2, dtype=torch.float64), torch.zeros(2, 2, dtype=torch.int8)])
def test_only_matrices_of_floats_are_packed(weight):
    with pytest.raises(ValueError, match="allowed: a matrix of float32, float16 or bfloat16"):
        pack(weight)


GOOD = pack(sparse(4, 20, 0.5))


def changed(**parts):
    return GOOD._replace(**parts)


def with_bits(row, byte):
    bits = GOOD.bitmask.clone()
    bits[row, 2] = byte
    return changed(bitmask=bits)


@pytest.mark.parametrize(
    ("packed", "words"),
    [
        (changed(shape=torch.tensor([4, -20])), "its shape is [4, -20] (torch.int64), not two numbers of at least 1"),
        (changed(shape=torch.tensor([4, 20, 1])), "its shape is [4, 20, 1]"),
        (changed(shape=torch.tensor([4.0, 20.0])), "its shape is [4.0, 20.0] (torch.float32)"),
        (changed(shape=torch.tensor([4, 2**40])), "its bitmask is torch.uint8 [4, 3], not uint8 [4, 137438953472]"),
        (changed(shape=torch.tensor([2**62, 20])), "its bitmask is torch.uint8 [4, 3], not uint8 [4611686018427387904, 3]"),
        (changed(compressed=GOOD.compressed.double()), "its values are torch.float64"),
        (changed(compressed=GOOD.compressed[None]), "not a row of float32, float16 or bfloat16"),
        (changed(compressed=GOOD.compressed[:-1]), "bits set for"),
        (changed(compressed=torch.cat([GOOD.compressed, GOOD.compressed])), "bits set for"),
        (changed(compressed=torch.full_like(GOOD.compressed, math.inf)), "its values are not all finite"),
        (changed(bitmask=GOOD.bitmask[:3]), "its bitmask is torch.uint8 [3, 3], not uint8 [4, 3]"),
        (changed(bitmask=GOOD.bitmask.to(torch.int16)), "its bitmask is torch.int16"),
        (with_bits(1, 0xFF), "its bitmask has bits beyond column 20"),
        (with_bits(1, 0x0F), "its row offsets are not the sums of the bits before them"),
        (changed(row_offsets=GOOD.row_offsets + 10**9), "its row offsets are not the sums of the bits before them"),
        (changed(row_offsets=-GOOD.row_offsets), "its row offsets are not the sums of the bits before them"),
        (changed(row_offsets=GOOD.row_offsets.int()), "its row offsets are torch.int32 [4], not int64 [4]"),
    ],
)  # fmt: skip
def test_a_weight_that_contradicts_itself_is_refused_in_one_line(packed, words):
    with pytest.raises(FormatError) as error:
        checked(packed, "layer")
    assert str(error.value).startswith("layer: ")
    assert words in str(error.value)
    assert "\n" not in str(error.value)
    assert checked(GOOD, "layer") is GOOD


def test_a_packed_weight_knows_its_bytes():
    assert isinstance(GOOD, Packed)
    assert GOOD.nbytes == 4 * len(GOOD.compressed) + 4 * 3 + 4 * 8 + 16
