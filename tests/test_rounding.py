"""Rounding: the levels, the bytes, the variants of a study, and who predicts best with as few bytes."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from lottery.analysis import sizes
from lottery.analysis.frame import frame
from lottery.common.errors import LotteryError, ParamsError
from lottery.config.profile import validated
from lottery.experiments.export import export
from lottery.experiments.study import Study
from lottery.models.blocks import prunable
from lottery.models.standins.architectures import ARCHITECTURES
from lottery.pruning.activations import ActivationStats
from lottery.pruning.rounding import GROUP, dequantize, gptq_, quantize, round_model, rounded_bytes
from lottery.pruning.variants import Variant, rounded, variants

NBSP = "\u00a0"


def tiny():
    return AutoModelForCausalLM.from_config(ARCHITECTURES["phi-2"])


def restored(weight, bits):
    return dequantize(*quantize(weight, bits), weight.shape[1])


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_each_group_has_evenly_spaced_levels_from_its_lowest_to_its_highest_weight(bits):
    weight = torch.randn(3, 2 * GROUP + 5)
    found = restored(weight, bits)
    for row, result in zip(weight, found, strict=True):
        for start in range(0, len(row), GROUP):
            group, given = row[start : start + GROUP].double(), result[start : start + GROUP].double()
            low, high = min(group.min(), 0), max(group.max(), 0)
            step = float(((high - low) / (2**bits - 1)).half())
            zero = round(float(-low / step))
            plain = [step * (min(max(round(float(w) / step) + zero, 0), 2**bits - 1) - zero) for w in group]
            torch.testing.assert_close(given, torch.tensor(plain, dtype=torch.double), rtol=1e-6, atol=step * 1e-3)
            assert len(given.unique()) <= 2**bits
            assert (given - group).abs().max() <= step  # half a step, and what float16 cuts off at the ends


def test_zeros_stay_zeros_and_a_group_of_them_too():
    weight = torch.randn(4, 300) + 3  # all on one side of zero
    weight[:, ::2] = 0
    weight[0] = 0
    assert torch.equal(restored(weight, 3)[weight == 0], torch.zeros(int((weight == 0).sum())))


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("share", [0.0, 0.9])
def test_its_bytes_are_those_of_a_real_packing(bits, share):
    weight = torch.randn(6, 2 * GROUP + 44)
    weight[torch.rand_like(weight) < share] = 0
    codes, scales, zeros = quantize(weight, bits)
    weight = dequantize(codes, scales, zeros, weight.shape[1])

    def packed(values):  # the lowest bits of each value, without gaps
        return np.packbits(np.unpackbits(values.astype(np.uint8)[..., None], axis=-1)[..., -bits:].reshape(*values.shape[:-1], -1), axis=-1)

    flat = codes.flatten(1)[:, : weight.shape[1]].numpy()
    dense = packed(flat).nbytes
    sparse = packed(flat[weight.numpy() != 0]).nbytes + np.packbits(weight.numpy() != 0, axis=1).nbytes + 8 * len(weight) + 16
    assert rounded_bytes(weight, bits) == min(dense, sparse) + scales.numpy().nbytes + packed(zeros.numpy().ravel()).nbytes
    assert sparse < dense if share else (dense < sparse or bits < 4)  # 2 or 3 bits round many weights to zero


@pytest.fixture
def inputs():
    """Correlated inputs of a layer, and what is measured of them."""
    x = torch.randn(600, 40) @ torch.randn(40, GROUP + 60) + 0.3 * torch.randn(600, GROUP + 60)
    x[:, 7] = 0  # an input that is always 0
    found = ActivationStats(x.shape[1], x.device, gram=True)
    found.add(x)
    return x, found


def plain_gptq(weight, x, bits):
    """GPTQ as the paper's algorithm has it, in float64: a row and a column at a time, no blocks."""
    w, x = weight.double().clone(), x.double()
    hessian = 2 * x.T @ x / len(x)
    dead = hessian.diagonal() == 0
    damping = 0.01 * hessian.diagonal()[~dead].mean()
    hessian[dead, dead] = 1
    hessian += damping * torch.eye(len(hessian), dtype=torch.double)
    upper = torch.linalg.cholesky(torch.linalg.inv(hessian), upper=True)
    w[:, dead], kept = 0, weight != 0
    for row, stays in zip(w, kept, strict=True):
        for j in range(len(row)):
            if j % GROUP == 0:
                group = (row * stays)[j : j + GROUP]
                low, high = min(float(group.min()), 0), max(float(group.max()), 0)
                step = float(torch.tensor((high - low) / (2**bits - 1)).half()) or 1.0
                zero = round(-low / step)
            level = (min(max(round(float(row[j]) / step) + zero, 0), 2**bits - 1) - zero) * step if stays[j] else 0.0
            error = (float(row[j]) - level) / upper[j, j]
            row[j] = level
            row[j + 1 :] -= error * upper[j, j + 1 :]
    return w


@pytest.mark.parametrize(("bits", "share"), [(4, 0.0), (3, 0.5)])
def test_gptq_is_the_papers_and_better_than_the_nearest_level(inputs, bits, share):
    x, measured = inputs
    weight = torch.randn(24, x.shape[1])
    weight[:, GROUP:] *= 0.1  # less than what is spread over its pruned weights
    weight[torch.rand_like(weight) < share] = 0
    found = weight.clone()
    gptq_(found, bits, measured, "layer")
    plain = plain_gptq(weight, x, bits).float()
    assert torch.isclose(found, plain, atol=1e-4).float().mean() > 0.99  # float32 may take the other of two levels that are as near
    assert torch.equal(found == 0, found * (weight != 0) == 0)

    def error(result):
        return float((x @ (result - weight).T).square().sum())

    assert error(found) < 0.6 * error(restored(weight, bits))
    assert error(found) == pytest.approx(error(plain), rel=0.02)
    assert all(len(row[start : start + GROUP].unique()) <= 2**bits for row in found for start in range(0, len(row), GROUP))


def test_only_the_linear_layers_inside_the_blocks_are_rounded():
    model = tiny()
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    round_model(model, "rtn", 4)
    changed = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert changed == {f"{name}.weight" for name in prunable(model)}
    for name, layer in prunable(model).items():
        assert torch.equal(layer.weight, restored(before[f"{name}.weight"], 4))


def test_what_cannot_be_rounded_is_refused_by_name():
    model = tiny()
    name, layer = next(iter(prunable(model).items()))
    layer.weight.data[0, 0] = 1e8
    with pytest.raises(LotteryError, match=rf"{name}: its weights reach 1e[+]08, too far for a scale in float16; drop rounding"):
        round_model(model, "rtn", 4)
    with pytest.raises(ValueError, match=r"^rounder: given 'GPTQ'; allowed: rtn, gptq$"):
        round_model(model, "GPTQ", 4)
    with pytest.raises(ValueError, match=r"^bits: given 9; allowed: 2 to 8$"):
        round_model(model, "rtn", 9)
    with pytest.raises(ValueError, match=r"^rounder: gptq needs samples$"):
        round_model(model, "gptq", 4)
    layer.weight.data[0, 0] = torch.nan
    with pytest.raises(LotteryError, match=f"{name}: holds weights that are not finite"):
        round_model(model, "rtn", 4)


def test_what_is_rounded_comes_last_at_falling_bits_and_is_called_what_it_is():
    found = rounded(variants(["magnitude"], ["uniform"], ["unstructured"], [0.5, 0.7]), [3, 8], ["rtn"], [0.7])
    assert [variant.title.replace(NBSP, " ") for variant in found] == [
        "rtn 8 bit", "rtn 3 bit", "magnitude 70% + rtn 8 bit", "magnitude 70% + rtn 3 bit",
    ]  # fmt: skip
    assert not any(variant.calibrated for variant in found)
    assert Variant("wanda", "uniform", "2:4", 0.5, "gptq", 4).title.replace(NBSP, " ") == "wanda 2:4 + gptq 4 bit"


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ({"rounding": [16]}, "rounding[0]: given 16; allowed: a list of whole numbers of bits, 2 to 8"),
        ({"rounding": [4, 4]}, "rounding: given [4, 4], with repeats; allowed: each value once"),
        ({"rounder": "gptq"}, "rounding: not given, but rounder is; allowed: a list of whole numbers of bits"),
        ({"rounding_sparsities": [0.5]}, "rounding: not given, but rounding_sparsities is; allowed: a list of whole numbers of bits"),
        ({"rounding": [4], "rounding_sparsities": [0.6]}, "rounding_sparsities: given 0.6; allowed: numbers above 0 of 'sparsities', [0.5, 0.9]"),
    ],
)  # fmt: skip
def test_a_wrong_key_is_told_what_is_allowed(toy, keys, line):
    with pytest.raises(ParamsError) as caught:
        validated({**toy, **keys})
    assert str(caught.value).startswith(line)


def test_a_study_rounds_measures_and_counts_and_its_other_records_stay(toy):
    plain = Study(validated(toy))
    plain.sweep()
    names = {record.request.file_name for record in plain.records}
    study = Study(validated({**toy, "rounding": [8, 2], "rounding_sparsities": [0.5]}))
    assert {record.request.file_name for record in study.records} == names
    study.sweep()
    found = {record.request.title.replace(NBSP, " "): record.result for record in study.records}
    assert list(found)[3:] == ["rtn 8 bit", "rtn 2 bit", "magnitude 50% + rtn 8 bit", "magnitude 50% + rtn 2 bit"]
    dense = found["dense"]
    assert found["rtn 8 bit"].perplexity == pytest.approx(dense.perplexity, rel=0.01)
    assert found["rtn 8 bit"].perplexity != dense.perplexity
    assert found["rtn 2 bit"].perplexity > 2 * dense.perplexity
    assert found["magnitude 50% + rtn 8 bit"].sparsity_prunable >= 0.5
    saved = {title: result.savings.stored for title, result in found.items()}
    assert saved["dense"] > saved["magnitude 50%"] > saved["rtn 8 bit"] > saved["magnitude 50% + rtn 8 bit"] > saved["rtn 2 bit"]
    assert found["rtn 8 bit"].savings.obstacle == "no kernel here reads rounded weights"
    data = frame(study.records)
    shares = sizes.with_layer_share(data).set_index("title")["layer_share"]
    assert shares[f"rtn{NBSP}8{NBSP}bit"] == pytest.approx((8 + 24 / GROUP) / 16, rel=0.05)  # rows are shorter than a group here
    with pytest.raises(ParamsError, match=r"VARIANT: given 'rtn 8 bit'; allowed: magnitude 50%, magnitude 90%$"):
        export(study.profile, "rtn 8 bit")


def test_a_calibrated_rounder_asks_for_calibration_data_and_does_better(toy):
    keys = {**toy, "rounding": [3], "rounder": ["rtn", "gptq"], "rounding_sparsities": [0.5]}
    with pytest.raises(ParamsError, match="calibration_text: not given, but gptq 3 bit needs it"):
        validated(keys)
    keys |= {"calibration_text": "training-stories", "calibration_samples": 32, "calibration_seq_len": 128, "max_windows": 40}
    found = {}
    for memory in ("resident", "streamed"):
        study = Study(validated({**keys, "profile": memory, "memory": memory}))
        study.sweep()
        found[memory] = {record.request.title.replace(NBSP, " "): record for record in study.records}
        calibrated = {title for title, record in found[memory].items() if record.request.calibration}
        assert calibrated == {"gptq 3 bit", "magnitude 50% + gptq 3 bit"}
        for before, after in (("rtn 3 bit", "gptq 3 bit"), ("magnitude 50% + rtn 3 bit", "magnitude 50% + gptq 3 bit")):
            assert found[memory][after].result.perplexity < found[memory][before].result.perplexity
    for title, record in found["resident"].items():
        assert record.result.window_nll == found["streamed"][title].result.window_nll, title
