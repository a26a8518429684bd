import pytest

from lottery.models.loading import skeleton
from lottery.models.standins.architectures import ARCHITECTURES
from lottery.report import architecture
from tests.test_checkpoints import of


@pytest.fixture(params=ARCHITECTURES)
def model(request):
    return skeleton(of(model=request.param, checkpoints={request.param: f"stand-in:{request.param}"}))


def test_every_weight_is_in_one_kind_of_layer(model):
    table = architecture.weights_by_kind(model)
    assert table["parameters"].sum() == model.num_parameters()
    assert table["share"].sum() == pytest.approx(1)
    assert {"embedding", "norms and biases"} <= set(table["layer"])


def test_a_skeleton_has_no_weights(model):
    assert all(p.is_meta for p in model.parameters())


def test_ends_and_biases_and_attention_tell_the_specialities():
    def of_name(name):
        return skeleton(of(model=name, checkpoints={name: f"stand-in:{name}"}))

    assert "tied" in architecture.ends(of_name("smollm2-1.7b"))["own weights"][1]
    assert "tied" not in architecture.ends(of_name("phi-2"))["own weights"][1]
    biases = architecture.biases(of_name("qwen2.5-7b")).set_index("layer")["biases"]
    assert biases["self_attn.q_proj"] == 140
    assert biases["self_attn.o_proj"] == biases["mlp.up_proj"] == 0
    heads = architecture.attention(of_name("mistral-7b")).iloc[0]
    assert (heads["query heads"], heads["key-value heads"], heads["window"]) == (8, 2, "128 tokens")
    assert architecture.attention(of_name("phi-2")).iloc[0]["rotated share of a head"] == 0.5
    assert "PhiMLP" in architecture.one_block(of_name("phi-2")).data
