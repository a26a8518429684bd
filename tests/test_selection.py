import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lottery.models import memory
from lottery.pruning import selection
from lottery.pruning.layer_spec import LayerSpec
from lottery.pruning.methods.magnitude import magnitude_
from lottery.pruning.selection import kth_lowest, magnitude_chunks, zero_lowest_

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


def by_sorting(weight: torch.Tensor, k: int) -> tuple[float, int, int]:
    magnitude = weight.abs().view(-1)
    value = magnitude.sort().values[k - 1]
    return float(value), int((magnitude < value).sum()), int((magnitude == value).sum())


def as_value(pattern: int, dtype: torch.dtype) -> float:
    return float(torch.tensor(pattern, dtype=selection._INTEGER[dtype.itemsize]).view(dtype))


@settings(max_examples=200, deadline=None)
@given(
    values=st.lists(st.floats(allow_nan=False, allow_infinity=False, width=16), min_size=1, max_size=60),
    dtype=st.sampled_from(DTYPES), share=st.floats(0, 1), chunk=st.sampled_from([1, 7, 1 << 18]),
)  # fmt: skip
def test_the_kth_magnitude_is_that_of_a_sort(values, dtype, share, chunk):
    """Subnormals, zeros of both signs, ties and extremes; in chunks that do not divide the tensor too."""
    weight = torch.tensor(values, dtype=torch.float64).to(dtype)
    weight = torch.where(torch.isfinite(weight), weight, torch.zeros_like(weight))
    k = 1 + int(share * (len(values) - 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selection, "_CHUNK", {"cpu": chunk})
        found = kth_lowest(magnitude_chunks(weight), k)
    assert (as_value(found.pattern, dtype), found.lower, found.equal) == by_sorting(weight, k)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("make", ["normal", "equal", "tiny", "wide"])
def test_no_distribution_is_special(dtype, make):
    size = 20_000
    weight = {
        "normal": torch.randn(size, dtype=torch.float64),
        "equal": torch.full((size,), -0.37, dtype=torch.float64),
        "tiny": torch.randn(size, dtype=torch.float64) * torch.finfo(dtype).tiny,
        "wide": torch.randn(size, dtype=torch.float64) * 10 ** torch.empty(size, dtype=torch.float64).uniform_(-4, 4),
    }[make].to(dtype)
    for k in (1, 2, size // 2, size - 1, size):
        found = kth_lowest(magnitude_chunks(weight), k)
        assert (as_value(found.pattern, dtype), found.lower, found.equal) == by_sorting(weight, k)


@pytest.mark.parametrize("dtype", DTYPES)
def test_ties_go_first_in_memory_first_across_chunks(dtype, monkeypatch):
    monkeypatch.setattr(selection, "_CHUNK", {"cpu": 4})
    weight = torch.tensor([2, 1, -1, 3, 1, 1, -1, 5, 1, -2], dtype=dtype)
    zero_lowest_(magnitude_chunks(weight), 4)
    assert weight.tolist() == [2, 0, 0, 3, 0, 0, -1, 5, 1, -2]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_pruning_needs_little_memory_beside_the_layer(dtype):
    weight = torch.randn(8192, 8192).to(dtype)  # large beside what a busy process allocates by the way
    device = torch.device("cpu")
    magnitude_(weight.clone(), LayerSpec("weight", 0.1))
    memory.reset_peak(device)
    before = memory.peak(device)
    magnitude_(weight, LayerSpec("weight", 0.5))
    assert memory.peak(device) - before < 0.25 * weight.numel() * weight.element_size()


@pytest.mark.parametrize("width", [8, 32, 33, 200])
def test_along_rows_the_first_of_equal_scores_go_in_each_row_for_itself(width):
    """Short rows are sorted and long ones partitioned; both must agree with a stable sort, also where most scores are equal."""
    scores = torch.randint(0, 4, (12, width), generator=torch.Generator().manual_seed(width)).float()
    scores[0], scores[1] = 1.0, torch.arange(width).float()
    for count in (1, width // 3, width - 1):
        wanted = torch.zeros_like(scores, dtype=torch.bool)
        for row, values in enumerate(scores.tolist()):
            wanted[row, sorted(range(width), key=lambda i: values[i])[:count]] = True
        assert torch.equal(selection.lowest(scores, count), wanted)


def test_a_score_is_told_which_rows_it_is_asked_for(monkeypatch):
    monkeypatch.setattr(selection, "_CHUNK", {"cpu": 8})
    weight = torch.ones(6, 4)
    asked = [which for _, which in selection.score_chunks(weight, lambda rows, which: torch.arange(6.0)[which])()]
    assert [values.tolist() for values in asked] == [[0, 1], [2, 3], [4, 5]]


@settings(max_examples=200, deadline=None)
@given(values=st.lists(st.sampled_from([0.0, 0.5, 0.9, 1.0, 1.05, 1.1, 2.0, 7.0]), min_size=1, max_size=40), at=st.data())
def test_the_kth_score_is_the_same_whatever_the_guess(values, at):
    """Ties, guesses at the ends of the band and far beside it."""
    score, k = torch.tensor(values), at.draw(st.integers(1, len(values)))
    near = at.draw(st.sampled_from([None, 0.0, 0.5, 0.95, 1.0, 1.2, 100.0]))
    assert selection.kth_near(score, k, near) == float(score.sort().values[k - 1])


@settings(max_examples=200, deadline=None)
@given(values=st.lists(st.sampled_from([0.0, -0.5, 0.5, 1.0, -1.0, 2.0]), min_size=8, max_size=8), at=st.data())
def test_the_lowest_of_a_layer_are_the_first_of_a_stable_order(values, at):
    score, count = torch.tensor(values).view(2, 4), at.draw(st.integers(0, 8))
    spec = LayerSpec("layer", 0.5)
    gone, highest = spec.lowest(score, count / 8, near=at.draw(st.sampled_from([None, 0.5, 1.0, 3.0])))
    order = score.abs().flatten().sort(stable=True)
    assert sorted(order.indices[:count].tolist()) == gone.flatten().nonzero().flatten().tolist()
    assert highest == (float(order.values[count - 1]) if count else None)
    assert int(spec.lowest(score)[0].sum()) == 4  # its own sparsity by default
