"""Each method against its definition in plain numpy, never against itself."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from lottery.common.errors import LotteryError
from lottery.models.blocks import count_zeros, prunable
from lottery.models.standins.architectures import ARCHITECTURES
from lottery.pruning import selection
from lottery.pruning.activations import ActivationStats
from lottery.pruning.catalogue import METHODS
from lottery.pruning.layer_spec import LayerSpec, prune_lowest_
from lottery.pruning.methods.admm import admm_
from lottery.pruning.methods.alps import alps_
from lottery.pruning.methods.magnitude import magnitude_, magnitude_global_
from lottery.pruning.methods.random import random_
from lottery.pruning.methods.ria import ria_
from lottery.pruning.methods.sparsegpt import sparsegpt_
from lottery.pruning.methods.wanda import wanda_
from lottery.pruning.pattern import Pattern
from lottery.pruning.prune import prune
from lottery.pruning.variants import Variant

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


def fed(x: torch.Tensor, gram=False) -> ActivationStats:
    inputs = ActivationStats(x.shape[1], x.device, gram=gram)
    for part in x.split(7):  # however the samples come
        inputs.add(part[None])
    return inputs


def layer(out=12, width=20, tokens=50, dtype=torch.float32):
    return torch.randn(out, width).to(dtype), torch.randn(tokens, width) * torch.rand(width) * 3


def drop(scores: np.ndarray, count: int) -> np.ndarray:
    """Where the ``count`` lowest of a flat array are, first in order among equals."""
    gone = np.zeros(scores.size, bool)
    gone[np.argsort(scores, kind="stable")[:count]] = True
    return gone


def pruned_by(method, weight, cut, inputs=None) -> torch.Tensor:
    result = weight.clone()
    method(result, cut, inputs)
    kept = result != 0
    assert torch.equal(result[kept], weight[kept]), "what stays must stay to the bit"
    return result


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.7, 0.95])
def test_wanda_is_weight_times_norm_of_its_input_lowest_in_each_row(dtype, share):
    weight, x = layer(dtype=dtype)
    scores = np.abs(weight.float().numpy()) * np.sqrt((x.double().numpy() ** 2).sum(0)).astype(np.float32)
    gone = np.stack([drop(row, round(share * 20)) for row in scores])
    result = pruned_by(wanda_, weight, LayerSpec("l", share), fed(x))
    assert ((result == 0).numpy() == gone).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.7, 0.95])
@pytest.mark.parametrize("chunk", [40, 1 << 18])  # two rows at a time, or all
def test_ria_is_the_share_in_row_and_column_times_root_of_norm_lowest_in_the_layer(dtype, share, chunk, monkeypatch):
    monkeypatch.setattr(selection, "_CHUNK", {"cpu": chunk})
    weight, x = layer(dtype=dtype)
    w = np.abs(weight.double().numpy())
    scores = (w / w.sum(0) + w / w.sum(1, keepdims=True)) * np.sqrt(np.sqrt((x.double().numpy() ** 2).sum(0)))
    result = pruned_by(ria_, weight, LayerSpec("l", share), fed(x))
    assert ((result == 0).numpy().ravel() == drop(scores.ravel(), round(share * w.size))).all()


def test_ria_of_a_row_and_a_column_of_zeros_is_not_0_over_0():
    weight, x = layer()
    weight[3], weight[:, 5] = 0, 0
    result = pruned_by(ria_, weight, LayerSpec("l", 0.5), fed(x))
    assert int((result == 0).sum()) == 120


def test_magnitude_over_the_model_takes_the_lowest_of_all_layers_and_needs_no_copy_of_them():
    weights = {"a": torch.randn(9, 8), "b": 3 * torch.randn(5, 4), "c": 0.1 * torch.randn(6, 6)}
    flat = torch.cat([w.flatten() for w in weights.values()])
    gone = drop(flat.abs().numpy(), round(0.7 * len(flat)))
    magnitude_global_(weights, 0.7)
    after = torch.cat([w.flatten() for w in weights.values()])
    assert ((after == 0).numpy() == gone).all()
    assert torch.equal(after[~gone], flat[~gone])


def test_magnitude_over_layers_of_several_dtypes():
    weights = {"a": torch.randn(40, 8).half(), "b": torch.randn(30, 8).bfloat16()}
    flat = torch.cat([w.float().flatten() for w in weights.values()])
    magnitude_global_(weights, 0.5)
    after = torch.cat([w.float().flatten() for w in weights.values()])
    assert ((after == 0).numpy() == drop(flat.abs().numpy(), 280)).all()


def test_random_depends_on_seed_and_name_only(monkeypatch):
    weight = torch.randn(64, 50)
    first = pruned_by(random_, weight, LayerSpec("l", 0.7, seed=1)) == 0
    monkeypatch.setattr(selection, "_CHUNK", {"cpu": 500})
    assert torch.equal(first, pruned_by(random_, weight, LayerSpec("l", 0.7, seed=1)) == 0)
    assert int(first.sum()) == round(0.7 * 3200)
    assert torch.equal(first, pruned_by(random_, torch.randn(64, 50), LayerSpec("l", 0.7, seed=1)) == 0)
    for other in (LayerSpec("l", 0.7, seed=2), LayerSpec("m", 0.7, seed=1)):
        shared = (first & (pruned_by(random_, weight, other) == 0)).float().mean()
        assert 0.44 < shared < 0.54  # 0.7² by chance


UPDATING = {"sparsegpt": sparsegpt_, "admm": admm_, "alps": alps_}
SCORED = {"magnitude": magnitude_, "random": random_, "wanda": wanda_, "ria": ria_}


@settings(max_examples=60, deadline=None)
@given(
    method=st.sampled_from([*SCORED, *UPDATING]), rows=st.integers(1, 6), groups=st.integers(1, 9), group=st.integers(2, 40),
    share=st.floats(0.01, 0.99), dtype=st.sampled_from(DTYPES), seed=st.integers(0, 2**31),
)  # fmt: skip
def test_n_m_keeps_n_of_every_group(method, rows, groups, group, share, dtype, seed):
    torch.manual_seed(seed)
    kept = min(max(1, round(share * group)), group - 1)
    weight, x = torch.randn(rows, groups * group).to(dtype), torch.randn(30, groups * group)
    cut = LayerSpec("l", 1 - kept / group, Pattern(kept, group))
    if method in UPDATING:
        UPDATING[method](weight, cut, fed(x, gram=True))
        result = weight
    else:
        result = pruned_by(SCORED[method], weight, cut, fed(x))
    assert ((result != 0).view(-1, group).sum(1) == kept).all()


@settings(max_examples=60, deadline=None)
@given(method=st.sampled_from([*SCORED, *UPDATING]), width=st.integers(1, 50), group=st.integers(2, 60))
def test_n_m_that_does_not_divide_a_row_is_refused(method, width, group):
    if width % group == 0:
        return
    function, weight = {**SCORED, **UPDATING}[method], torch.randn(3, width)
    before = weight.clone()
    with pytest.raises(LotteryError) as caught:
        function(weight, LayerSpec("model.layers.0.up", 1 - 1 / group, Pattern(1, group)), fed(torch.randn(9, width), gram=True))
    assert str(caught.value) == (
        f"pattern: given '1:{group}', but {group} does not divide the {width} inputs of model.layers.0.up; take another pattern, or unstructured"
    )
    assert torch.equal(weight, before)


def test_n_m_by_magnitude_takes_the_smallest_of_the_group():
    weight = torch.tensor([[1.0, -3, 2, 4, 5, 5, -5, 5]])
    magnitude_(weight, LayerSpec("l", 0.5, Pattern(2, 4)))
    assert weight.tolist() == [[0, -3, 0, 4, 0, 0, -5, 5]]


@pytest.mark.parametrize("method", [*SCORED, *UPDATING])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("pattern", [None, Pattern(2, 4)])
def test_weights_that_are_not_finite_name_the_layer(method, bad, pattern):
    if method == "random":
        return  # it never looks at the weights
    weight, x = layer()
    weight[3, 4] = bad
    with pytest.raises(LotteryError, match=r"^model\.layers\.3\.up: holds weights that are not finite"):
        {**SCORED, **UPDATING}[method](weight, LayerSpec("model.layers.3.up", 0.5, pattern), fed(x, gram=True))


def test_inputs_that_are_not_finite_or_not_there_name_the_layer():
    inputs = fed(torch.tensor([[1.0, float("inf")]]))
    with pytest.raises(LotteryError, match=r"^layer 3: its inputs are not finite on the calibration text; .* set dtype: float32$"):
        inputs.check("layer 3")
    with pytest.raises(LotteryError, match=r"^layer 3: no calibration token reached this layer"):
        ActivationStats(4, torch.device("cpu")).check("layer 3")


@pytest.mark.parametrize("pattern", [None, Pattern(2, 4)])
@pytest.mark.parametrize("group", ["layer", "row"])
def test_a_score_below_nought_is_refused_because_its_sign_would_not_be_seen(group, pattern):
    with pytest.raises(ValueError, match=r"^l: its scores go down to -1; allowed: 0 and above, and the lowest are pruned$"):
        prune_lowest_(torch.ones(4, 8), lambda rows, which: -rows, LayerSpec("l", 0.5, pattern), comparison_group=group)


def test_a_row_of_which_nothing_would_stay_is_refused():
    with pytest.raises(LotteryError, match=r"^l: 90% of a row of 4 weights rounds to all of them; lower the sparsity$"):
        wanda_(torch.randn(5, 4), LayerSpec("l", 0.9), fed(torch.randn(9, 4)))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["mistral-7b", "phi-2"])
def test_every_method_prunes_the_linears_inside_the_blocks_and_nothing_else(method, name):
    model = AutoModelForCausalLM.from_config(ARCHITECTURES[name])
    before = {key: value.clone() for key, value in model.state_dict().items()}
    layers = prunable(model)
    prune(model, Variant(method, "uniform", "unstructured", 0.7), torch.randint(0, 500, (3, 40)), seed=5)
    for key, value in model.state_dict().items():
        if key.removesuffix(".weight") not in layers:
            assert torch.equal(value, before[key]), key
    counted = count_zeros(model)
    assert counted.prunable == pytest.approx(0.7, abs=0.005)  # Wanda rounds in each row
    assert set(counted.layers) == set(layers)
    if method != "magnitude-global":
        assert all(share == pytest.approx(0.7, abs=0.01) for share in counted.layers.values())


def test_more_zeros_than_asked_for_is_an_error_not_a_rounding():
    model = AutoModelForCausalLM.from_config(ARCHITECTURES["qwen2.5-0.5b"])
    prune(model, Variant("magnitude", "uniform", "unstructured", 0.7))
    for method in ("magnitude", "magnitude-global"):
        with pytest.raises(LotteryError, match=r"^the model: 70\.0% of the weights are zero already, more than the 50\.0% asked for"):
            prune(model, Variant(method, "uniform", "unstructured", 0.5))


def test_one_layer_with_many_zeros_is_no_sign_of_pruning():
    """In a checkpoint that was rounded to 4 bits 20% of one layer are zero, and 5% of all: it can be pruned to 10%."""
    model = AutoModelForCausalLM.from_config(ARCHITECTURES["qwen2.5-0.5b"])
    layers = prunable(model)
    first = next(iter(layers.values())).weight.data
    first.view(-1)[: first.numel() // 5] = 0
    prune(model, Variant("magnitude", "uniform", "unstructured", 0.1))
    shares = count_zeros(model).layers
    assert shares[next(iter(layers))] == pytest.approx(0.2, abs=0.01), "there was nothing more to take"
    assert all(share == pytest.approx(0.1, abs=0.01) for name, share in shares.items() if name != next(iter(layers)))


def test_a_method_that_needs_samples_says_so():
    model = AutoModelForCausalLM.from_config(ARCHITECTURES["qwen2.5-0.5b"])
    with pytest.raises(LotteryError, match=r"^wanda 2:4 needs calibration samples, and none were given$"):
        prune(model, Variant("wanda", "uniform", "2:4", 0.5))
