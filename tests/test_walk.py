"""The walk against the model itself: what it feeds a layer is what the model feeds it."""

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma2Config, GPTNeoXConfig, Qwen3Config

from lottery.common.errors import ImpossibleTrialError, LotteryError
from lottery.models import memory
from lottery.models.blocks import blocks, by_block, prunable
from lottery.models.standins.architectures import ARCHITECTURES
from lottery.pruning import activations
from lottery.pruning.catalogue import METHODS
from lottery.pruning.prune import prune
from lottery.pruning.variants import Variant
from lottery.pruning.walk import walk

SMALL = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4}
CONFIGS = {
    **ARCHITECTURES,
    "gemma-2": Gemma2Config(**SMALL, num_key_value_heads=2, head_dim=8, sliding_window=8),  # two kinds of attention, scaled embedding
    "gpt-neox": GPTNeoXConfig(**SMALL),
    "qwen3": Qwen3Config(**SMALL, num_key_value_heads=2, head_dim=8),
}
SAMPLES = torch.randint(0, 60, (3, 24), generator=torch.Generator().manual_seed(1))


def made(name: str):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(CONFIGS[name]).eval()


def as_the_model_feeds_them(model, samples) -> dict[str, torch.Tensor]:
    """Every linear's inputs in a plain forward pass."""
    seen = {name: [] for name in prunable(model)}
    hooks = [
        layer.register_forward_pre_hook(lambda _, args, name=name: seen[name].append(args[0][0])) for name, layer in prunable(model).items()
    ]
    with torch.no_grad():
        for sample in samples:
            model(input_ids=sample[None], use_cache=False)
    for hook in hooks:
        hook.remove()
    return {name: torch.cat(parts) for name, parts in seen.items()}


@pytest.mark.parametrize("changes", [True, False])
@pytest.mark.parametrize("name", CONFIGS)
def test_layers_are_fed_what_the_model_feeds_them(name, changes, monkeypatch):
    monkeypatch.setattr(activations, "_PANEL", {"cpu": 20})
    model, measured = made(name), {}
    walk(model, SAMPLES, lambda _, layers: measured.update({layer.name: layer.inputs for layer in layers}), gram=True, changes=changes)
    expected = as_the_model_feeds_them(model, SAMPLES)
    assert list(measured) == list(expected)
    for layer, x in expected.items():
        assert measured[layer].tokens == SAMPLES.numel()
        torch.testing.assert_close(measured[layer].squares, x.double().square().sum(0), rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(measured[layer].gram, x.T @ x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", CONFIGS)
def test_each_block_sees_what_the_pruned_blocks_before_it_give(name):
    model, measured = made(name), {}

    def visit(_, layers):
        for layer in layers:
            measured[layer.name] = layer.inputs.squares.clone()
            layer.linear.weight.data[:, ::2] = 0

    walk(model, SAMPLES, visit)
    expected = as_the_model_feeds_them(model, SAMPLES)  # of the pruned model
    for index, layers in enumerate(by_block(made(name))):
        first = next(iter(layers))  # the block's own pruning does not show in what its first layer is fed
        torch.testing.assert_close(measured[first], expected[first].double().square().sum(0), rtol=1e-5, atol=1e-9, msg=f"block {index}")


def test_what_feeds_several_layers_is_measured_once():
    model, shared = made("mistral-7b"), []
    walk(model, SAMPLES, lambda _, layers: shared.append(len({id(layer.inputs) for layer in layers})))
    assert shared == [4] * 6  # q, k, v; o; gate, up; down
    model, shared = made("phi-2"), []
    walk(model, SAMPLES, lambda _, layers: shared.append(len({id(layer.inputs) for layer in layers})))
    assert shared == [3] * 5  # q, k, v and fc1, side by side; dense; fc2


def test_the_walk_leaves_no_hook_and_no_replaced_forward_behind_even_when_it_is_interrupted():
    model = made("phi-2")
    before = model(SAMPLES).logits

    def interrupted(index, layers):
        if index == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        walk(model, SAMPLES, interrupted)
    assert torch.equal(model(SAMPLES).logits, before)
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert not any("forward" in vars(module) for module in model.modules())


def test_an_interrupted_walk_leaves_the_checkpoint_on_disk_untouched(tmp_path):
    made("smollm2-1.7b").save_pretrained(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    model = AutoModelForCausalLM.from_pretrained(tmp_path)

    def stop(done, of):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prune(model, Variant("sparsegpt", "uniform", "unstructured", 0.5), SAMPLES, progress=stop)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_progress_counts_the_blocks():
    seen = []
    walk(made("qwen2.5-0.5b"), SAMPLES, lambda *_: None, progress=lambda done, of: seen.append((done, of)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_a_layer_that_no_token_reaches_is_named():
    model = made("smollm2-1.7b")
    model.model.layers[1].spare = torch.nn.Linear(4, 4)
    with pytest.raises(LotteryError, match=r"^model\.layers\.1\.spare: no calibration token reached this layer"):
        walk(model, SAMPLES, lambda *_: None)


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if method.needs != "nothing"])
def test_the_same_samples_prune_the_same_weights(method):
    results = []
    for _ in range(2):
        model = made("qwen2.5-7b")
        prune(model, Variant(method, "uniform", "unstructured", 0.5), SAMPLES)
        results.append(torch.cat([layer.weight.flatten() for layer in prunable(model).values()]))
    assert torch.equal(*results)


def test_only_the_block_at_work_is_on_the_other_device():
    if not torch.cuda.is_available():
        pytest.skip("no GPU on this machine")
    model = made("mistral-7b").to("cpu")
    largest = max(sum(p.numel() * p.element_size() for p in block.parameters()) for block in blocks(model))
    device = torch.device("cuda")
    memory.reset_peak(device)
    before = memory.peak(device)
    prune(model, Variant("wanda", "uniform", "unstructured", 0.5), SAMPLES, device=device)
    assert memory.peak(device) - before < 3 * largest + 32e6
    assert {p.device.type for p in model.parameters()} == {"cpu"}


def test_where_nothing_changes_each_block_runs_once_for_each_sample():
    model, runs = made("qwen3"), []
    blocks(model)[2].mlp.register_forward_hook(lambda *_: runs.append(1))
    walk(model, SAMPLES, lambda *_: None)
    assert len(runs) == 2 * len(SAMPLES)
    runs.clear()
    walk(model, SAMPLES, lambda *_: None, changes=False)
    assert len(runs) == len(SAMPLES)


def test_a_method_that_leaves_weights_that_are_not_finite_is_named_at_once(monkeypatch):
    def broken(weight, spec, inputs):
        weight[0, 0] = torch.inf

    monkeypatch.setitem(METHODS, "wanda", METHODS["wanda"]._replace(function=broken))
    with pytest.raises(
        ImpossibleTrialError, match=r"^model\.layers\.0\.self_attn\.q_proj: wanda left weights that are not finite; take more"
    ):
        prune(made("mistral-7b"), Variant("wanda", "uniform", "unstructured", 0.5), SAMPLES)
