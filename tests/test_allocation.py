"""OWL, AlphaPruning and DLP against their formulas, and against the constraint that the mean sparsity is the target."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from lottery.common.errors import LotteryError
from lottery.models.blocks import by_block, count_zeros, prunable
from lottery.models.standins.architectures import ARCHITECTURES
from lottery.pruning import walk
from lottery.pruning.allocations.alphapruning import tail_exponent
from lottery.pruning.prune import allocated, prune
from lottery.pruning.variants import Variant
from tests.test_walk import SAMPLES, as_the_model_feeds_them


@pytest.fixture
def model():
    """A model whose blocks differ: later ones have heavier tails."""
    found = AutoModelForCausalLM.from_config(ARCHITECTURES["mistral-7b"]).eval()
    for index, layers in enumerate(by_block(found)):
        for layer in layers.values():
            u, s, v = torch.linalg.svd(layer.weight.data, full_matrices=False)
            layer.weight.data = (u * s ** (1 + 0.4 * index)) @ v
    return found


def mean_over_weights(model, shares) -> float:
    sizes = {name: layer.weight.numel() for name, layer in prunable(model).items()}
    return sum(shares[name] * size for name, size in sizes.items()) / sum(sizes.values())


@pytest.mark.parametrize("target", [0.3, 0.5, 0.7])
def test_owl_is_its_formula_and_keeps_the_target(model, target):
    fed = as_the_model_feeds_them(model, SAMPLES)
    outliers = []
    for layers in by_block(model):
        scores = [
            np.abs(layer.weight.detach().double().numpy()) * np.linalg.norm(fed[name].double().numpy(), axis=0)
            for name, layer in layers.items()
        ]
        flat = np.concatenate([s.ravel() for s in scores])
        outliers.append(100 * (flat > 5 * flat.mean()).mean())
    stretched = (np.array(outliers) - min(outliers)) / (max(outliers) - min(outliers)) * 2 * 0.08
    expected = target - (stretched - stretched.mean())  # the stand-in's blocks are of one size
    shares = allocated(model, "owl", target, SAMPLES)
    assert [shares[next(iter(layers))] for layers in by_block(model)] == pytest.approx(list(expected), abs=1e-4)
    assert mean_over_weights(model, shares) == pytest.approx(target, abs=1e-12)
    assert max(shares.values()) - min(shares.values()) == pytest.approx(0.16)


@pytest.mark.parametrize("target", [0.3, 0.5, 0.7])
def test_dlp_is_its_formula_and_keeps_the_target(model, target):
    fed = as_the_model_feeds_them(model, SAMPLES)
    medians = []
    for layers in by_block(model):
        scores = [
            np.abs(layer.weight.detach().double().numpy()) * np.linalg.norm(fed[name].double().numpy(), axis=0)
            for name, layer in layers.items()
        ]
        medians.append(np.quantile(np.concatenate([s.ravel() for s in scores]), 0.5, method="lower"))
    importance = 1 - np.array(medians) / sum(medians)
    kept = (importance - importance.min()) / (importance.max() - importance.min()) * 0.3
    shares = allocated(model, "dlp", target, SAMPLES)
    assert [shares[next(iter(layers))] for layers in by_block(model)] == pytest.approx(list(target - (kept - kept.mean())), abs=1e-4)
    assert mean_over_weights(model, shares) == pytest.approx(target, abs=1e-12)
    lowest = next(iter(by_block(model)[int(np.argmin(medians))]))
    assert shares[lowest] == min(shares.values()), "the block with the lowest scores keeps most"


@pytest.mark.parametrize("target", [0.3, 0.5, 0.7])
def test_alphapruning_is_its_formula_and_keeps_the_target(model, target):
    alphas = []
    for layers in by_block(model):
        of_layers = []
        for layer in layers.values():
            spectrum = np.sort(np.linalg.svd(layer.weight.detach().numpy(), compute_uv=False).astype(float) ** 2)
            n, k = len(spectrum), len(spectrum) // 2
            of_layers.append(1 + k / np.log(spectrum[n - k :] / spectrum[n - k - 1]).sum())
        alphas.append(np.mean(of_layers))
    mapped = (np.array(alphas) - min(alphas)) / (max(alphas) - min(alphas)) * 0.4 + 0.8
    shares = allocated(model, "alphapruning", target)
    assert [shares[next(iter(layers))] for layers in by_block(model)] == pytest.approx(list(target * mapped / mapped.mean()), rel=1e-4)
    assert mean_over_weights(model, shares) == pytest.approx(target, abs=1e-12)
    assert alphas[0] > alphas[-1], "the last block has the heaviest tail"
    first, last = (shares[next(iter(by_block(model)[i]))] for i in (0, -1))
    assert first > last, "and keeps most"


def test_the_hill_estimate_finds_the_exponent_of_a_power_law():
    """Eigenvalues with density λ^-α from 1 on: λ = (1 - u)^(-1 / (α - 1))."""
    for alpha in (2.0, 3.5):
        u = (torch.arange(1000) + 0.5) / 1000
        assert tail_exponent(torch.diag((1 - u) ** (-0.5 / (alpha - 1)))) == pytest.approx(alpha, rel=0.01)


def test_blocks_that_are_all_alike_get_the_same_share():
    model = AutoModelForCausalLM.from_config(ARCHITECTURES["mistral-7b"])
    first = model.model.layers[0].state_dict()
    for block in model.model.layers[1:]:
        block.load_state_dict(first)
    assert all(share == pytest.approx(0.6) for share in allocated(model, "alphapruning", 0.6).values())


@pytest.mark.parametrize("allocation", ["owl", "alphapruning", "dlp"])
@pytest.mark.parametrize("method", ["magnitude", "wanda", "sparsegpt"])
def test_an_allocation_combines_with_every_layer_wise_method(model, allocation, method):
    asked = allocated(model, allocation, 0.6, SAMPLES)
    prune(model, Variant(method, allocation, "unstructured", 0.6), SAMPLES)
    counted = count_zeros(model)
    assert counted.prunable == pytest.approx(0.6, abs=0.004)
    assert counted.layers == pytest.approx(asked, abs=0.005)


def test_a_target_that_a_block_cannot_meet_is_refused_before_any_work(model):
    before = [layer.weight.clone() for layer in prunable(model).values()]
    with pytest.raises(
        LotteryError,
        match=r"^allocation: alphapruning at sparsity 0\.9 would take 1\d\d\.\d% of block 0, allowed: 0% to below 100%; ask for less",
    ):
        prune(model, Variant("magnitude", "alphapruning", "unstructured", 0.9))
    assert all(torch.equal(a, layer.weight) for a, layer in zip(before, prunable(model).values(), strict=True))


def test_what_an_allocation_measures_is_measured_once_for_all_its_variants(model, monkeypatch):
    measured, passes, real = {}, [], walk.entered
    monkeypatch.setattr(walk, "entered", lambda *a: (passes.append(1), real(*a))[1])
    first = allocated(model, "owl", 0.5, SAMPLES, measured=measured)
    again = allocated(model, "owl", 0.7, SAMPLES, measured=measured)
    allocated(model, "dlp", 0.5, SAMPLES, measured=measured)
    assert len(passes) == 2
    assert again == {name: pytest.approx(share + 0.2) for name, share in first.items()}
