import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import prune as torch_prune
from transformers import AutoModelForCausalLM

from lottery.common.errors import LotteryError
from lottery.models.blocks import blocks, count_zeros, prunable
from lottery.models.standins.architectures import ARCHITECTURES
from lottery.pruning.layer_spec import LayerSpec
from lottery.pruning.methods.magnitude import magnitude_
from lottery.pruning.prune import prune
from lottery.pruning.variants import DENSE, Variant

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


def by_torch(weight: torch.Tensor, amount: float) -> torch.Tensor:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=weight.dtype)
    layer.weight.data = weight.clone()
    torch_prune.l1_unstructured(layer, "weight", amount)
    torch_prune.remove(layer, "weight")
    return layer.weight.data


def ours(weight: torch.Tensor, amount: float) -> torch.Tensor:
    pruned = weight.clone()
    magnitude_(pruned, LayerSpec("weight", amount))
    return pruned


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("amount", [0.0, 0.1, 0.5, 0.7, 0.9, 0.999])
def test_equal_to_torch_where_no_two_magnitudes_tie(dtype, amount):
    # Permuted distinct values: exact in every dtype, 16-bit ones too.
    size = 2048 if dtype in (torch.float64, torch.float32) else 240
    values = (
        torch.arange(1, size + 1, dtype=torch.float64) if size == 2048 else torch.arange(1, size + 1, dtype=torch.float64).clamp(max=256)
    )
    weight = (values[torch.randperm(size)] * torch.where(torch.rand(size) < 0.5, -1, 1)).to(dtype).view(16, -1)
    assert weight.abs().unique().numel() == size
    assert torch.equal(ours(weight, amount), by_torch(weight, amount))


@settings(max_examples=150, deadline=None)
@given(
    rows=st.integers(1, 9), columns=st.integers(1, 17), amount=st.floats(0, 0.999), levels=st.integers(1, 6),
    dtype=st.sampled_from(DTYPES), seed=st.integers(0, 2**31),
)  # fmt: skip
def test_with_ties_the_count_is_exact_and_the_same_magnitudes_stay(rows, columns, amount, levels, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randint(-levels, levels + 1, (rows, columns), generator=generator).to(dtype)
    pruned, reference = ours(weight, amount), by_torch(weight, amount)
    count = round(amount * weight.numel())
    assert int((pruned == 0).sum()) == max(count, int((weight == 0).sum()))
    assert torch.equal(pruned.abs().view(-1).double().sort().values, reference.abs().view(-1).double().sort().values)
    kept = pruned != 0
    assert torch.equal(pruned[kept], weight[kept])


def test_ties_go_first_in_memory_first():
    weight = torch.tensor([[1.0, -1.0, 2.0], [1.0, 1.0, -1.0]])
    assert ours(weight, 0.5).tolist() == [[0, 0, 2], [0, 1, -1]]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_name_the_layer(bad):
    with pytest.raises(LotteryError, match=r"^model\.layers\.3\.up: holds weights that are not finite"):
        magnitude_(torch.tensor([[1.0, bad]]), LayerSpec("model.layers.3.up", 0.5))


def test_a_tensor_that_is_not_contiguous_is_refused():
    with pytest.raises(ValueError, match="not contiguous"):
        magnitude_(torch.ones(2, 3).t(), LayerSpec("weight", 0.5))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_exactly_the_linears_inside_the_blocks_are_pruned_each_to_the_asked_share(name):
    model = AutoModelForCausalLM.from_config(ARCHITECTURES[name])
    before = {key: value.clone() for key, value in model.state_dict().items()}
    layers = prunable(model)
    assert len(layers) == len(blocks(model)) * (6 if name == "phi-2" else 7)
    prune(model, Variant("magnitude", "uniform", "unstructured", 0.7))
    for key, value in model.state_dict().items():
        if key.removesuffix(".weight") in layers:
            assert int((value == 0).sum()) == round(0.7 * value.numel())
        else:
            assert torch.equal(value, before[key]), key
    counted = count_zeros(model)
    assert counted.prunable == pytest.approx(0.7, abs=1e-4)
    assert counted.parameters == model.num_parameters()
    assert counted.model == sum(int((p == 0).sum()) for p in model.parameters()) / model.num_parameters()


def test_dense_leaves_every_weight_alone():
    model = AutoModelForCausalLM.from_config(ARCHITECTURES["phi-2"])
    before = [p.clone() for p in model.parameters()]
    prune(model, DENSE)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_a_block_that_shares_the_embeddings_storage_is_refused():
    model = AutoModelForCausalLM.from_config(ARCHITECTURES["smollm2-1.7b"])
    layer = model.model.layers[0].mlp.down_proj
    layer.weight.data = model.get_input_embeddings().weight.data[:96, :96]
    with pytest.raises(LotteryError, match=r"model\.layers\.0\.mlp\.down_proj shares its weights with the embedding or the head"):
        prunable(model)


def test_a_model_without_linear_layers_in_its_blocks_is_refused():
    from transformers import GPT2Config

    model = AutoModelForCausalLM.from_config(GPT2Config(n_layer=2, n_embd=8, n_head=2, vocab_size=16))
    with pytest.raises(LotteryError, match=r"GPT2LMHeadModel has no nn\.Linear inside its blocks; only such layers can be pruned"):
        prunable(model)


def test_a_model_without_blocks_is_refused():
    with pytest.raises(LotteryError, match="Linear has no list of blocks"):
        blocks(nn.Linear(2, 2))
