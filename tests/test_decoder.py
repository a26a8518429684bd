"""The decoder against transformers' own forward pass: every family, dense and sparse, and what it refuses."""

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, PhiConfig, Qwen2Config

from lottery.evaluation.decoder import Decoder, UnsupportedError, decode
from lottery.evaluation.generation import generate, greedy
from lottery.models.blocks import prunable
from lottery.models.checkpoints import STAND_INS, stand_ins
from lottery.sparse.linear import SparseLinear
from tests.conftest import need_compiler

need_compiler()

SMALL = {
    "vocab_size": 300,
    "hidden_size": 72,
    "intermediate_size": 100,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "max_position_embeddings": 128,
}
CONFIGS = {
    "grouped heads of another size": LlamaConfig(**SMALL, num_key_value_heads=2, head_dim=20),
    "llama3 positions, biases everywhere": LlamaConfig(
        **SMALL, attention_bias=True, mlp_bias=True, tie_word_embeddings=True,
        rope_parameters={"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32},
    ),
    "one head of keys": Qwen2Config(**SMALL, num_key_value_heads=1),
    "a window shorter than the text": MistralConfig(**SMALL, num_key_value_heads=3, sliding_window=7),
    "a window longer than the text": MistralConfig(**SMALL, num_key_value_heads=6, sliding_window=100),
    "half of each head rotated": PhiConfig(**SMALL, partial_rotary_factor=0.5),
}  # fmt: skip


def random_model(config, dtype=torch.float32):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="eager").eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias") or "norm" in name:
                parameter.add_(torch.randn(parameter.shape).to(dtype) / 5)
    return model


def sparsified(model):
    """Half of each weight zero, and packed."""
    with torch.no_grad():
        for name, layer in prunable(model).items():
            layer.weight[layer.weight.abs() <= layer.weight.abs().float().median()] = 0
            model.set_submodule(name, SparseLinear.of(layer))
    return model


def stepped(decoder, tokens, start):
    """The logits after each token from ``start`` on, the tokens before it read as a prompt."""
    found = [decoder.prefill(tokens[:, :start])[0]]
    return torch.stack(found + [decoder.step(token)[0].clone() for token in tokens[0, start:].tolist()])


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=list(CONFIGS))
def test_its_logits_are_those_of_transformers(config, sparse):
    model = random_model(config)
    model = sparsified(model) if sparse else model
    tokens = torch.randint(300, (1, 40), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        want = model(tokens).logits[0]
    for start in (1, 11, 40):
        got = stepped(Decoder(model, 40), tokens, start)
        assert torch.allclose(got, want[start - 1 :], atol=2e-5 * float(want.abs().max())), start


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("name", stand_ins())
def test_it_writes_what_transformers_writes(name, sparse):
    model = AutoModelForCausalLM.from_pretrained(STAND_INS / name, dtype=torch.float32).eval()
    tokens = torch.arange(20, 36)[None]
    model = sparsified(model) if sparse else model
    own = decode(Decoder(model, 80), tokens, 60).tokens[0].tolist()
    assert own == generate(model, tokens, 60, greedy).tokens[0].tolist()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_with_16_bit_weights_it_is_nearer_to_fp32_than_transformers_in_16_bits(dtype):
    """Its activations are fp32: what is left is the rounding of the weights, which both share."""
    model = random_model(CONFIGS["grouped heads of another size"], dtype)
    tokens = torch.randint(300, (1, 30), generator=torch.Generator().manual_seed(1))
    got = stepped(Decoder(model, 30), tokens, 1)[1:]
    with torch.inference_mode():
        theirs = model(tokens).logits[0, 1:].float()
        exact = model.float()(tokens).logits[0, 1:]
    assert (got - exact).abs().max() < (theirs - exact).abs().max()
    # The first token was read by transformers in 16 bits, and its keys and values stay in the cache.
    assert (got - exact).abs().max() < 0.02 * exact.abs().max()


def test_a_second_text_starts_anew():
    decoder, tokens = Decoder(random_model(CONFIGS["one head of keys"]), 30), torch.arange(10, 40)[None]
    first = stepped(decoder, tokens, 5)
    stepped(decoder, tokens.flip(1), 20)
    assert torch.equal(stepped(decoder, tokens, 5), first)


def test_more_tokens_than_there_is_room_for_are_refused():
    decoder = Decoder(random_model(CONFIGS["one head of keys"]), 8)
    with pytest.raises(ValueError, match="given 9; allowed: as many as the cache has room for, 8"):
        decoder.prefill(torch.arange(9)[None])
    decoder.prefill(torch.arange(8)[None])
    with pytest.raises(ValueError, match="the cache has room for 8 tokens, and they are there"):
        decoder.step(1)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (LlamaConfig(**SMALL, hidden_act="gelu"), "given llama with gelu and default positions"),
        (
            LlamaConfig(**SMALL, rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}),
            "given llama with silu and dynamic positions",
        ),
        (PhiConfig(**SMALL, qk_layernorm=True), "and queries that are not normalized"),
        (
            Qwen2Config(**SMALL, use_sliding_window=True, sliding_window=8, max_window_layers=1),
            "given qwen2 with windows in some blocks only",
        ),
    ],
)
def test_what_it_does_not_compute_is_refused(config, words):
    with pytest.raises(UnsupportedError) as error:
        Decoder(AutoModelForCausalLM.from_config(config), 8)
    assert words in str(error.value)


def test_a_family_that_it_does_not_know_is_named():
    from transformers import GPT2Config

    with pytest.raises(UnsupportedError, match="given 'gpt2'; the decoder knows llama, mistral, qwen2, phi"):
        Decoder(AutoModelForCausalLM.from_config(GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=10)), 8)


def test_it_counts_what_a_token_reads():
    model = random_model(CONFIGS["one head of keys"])
    layers = sum(layer.weight.nbytes for layer in prunable(model).values())
    assert Decoder(model, 8).read_bytes() == layers + model.lm_head.weight.nbytes
    with torch.no_grad():
        model.lm_head.weight.copy_(model.lm_head.weight.half())
    assert Decoder(model, 8).read_bytes() == layers + model.lm_head.weight.nbytes // 2, "a head that 16 bits hold is read in 16 bits"
    packed = sparsified(model)
    assert Decoder(packed, 8).read_bytes() < layers
