"""Decoders of transformers, one small model a family: pruned as asked, walked, streamed, scored as transformers scores; or refused by name."""

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM
from transformers.utils import logging

from benchmarks import emulated
from lottery.common.errors import ImpossibleTrialError, LotteryError
from lottery.evaluation.evaluate import evaluate
from lottery.models.blocks import blocks, count_zeros
from lottery.pruning.prune import prune
from lottery.pruning.variants import Variant
from lottery.pruning.walk import walk
from lottery.training.recovery import recover

WANDA = Variant("wanda", "uniform", "unstructured", 0.5)
TOKENS = torch.randint(3, 60, (2, 24), generator=torch.Generator().manual_seed(1))
# What each family calls its own sizes by; it takes those that it knows.
SMALL = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64,
    "d_model": 32, "n_layers": 3, "n_heads": 4, "ffn_dim": 48, "num_layers": 3, "word_embed_proj_dim": 32, "rotary_dim": 8,
    "moe_intermediate_size": 24, "shared_expert_intermediate_size": 24, "num_experts": 6, "num_local_experts": 6, "num_experts_per_tok": 2,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
PRUNED = [
    "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi", "phi3", "olmo2", "gptj", "opt", "bloom", "mpt", "stablelm",
    "starcoder2", "cohere2", "granite", "smollm3", "glm4", "nemotron", "persimmon", "codegen", "gpt_bigcode", "exaone4", "biogpt", "xglm", "lfm2",
]  # fmt: skip
WITHOUT_DROPOUT = ("mpt", "lfm2")  # in the config itself
REFUSED = {
    "gpt2": r"^GPT2LMHeadModel has no nn\.Linear inside its blocks; only such layers can be pruned$",
    "mixtral": r"^MixtralForCausalLM holds 90% of the weights of its blocks elsewhere than in nn\.Linear, such as model\.layers\.0\.mlp\.experts\."
    r"gate_up_proj \[6, \d+, 32\]; those would not be pruned, so it is not pruned at all$",
    "qwen2_moe": r"^Qwen2MoeForCausalLM holds 7\d% of the weights of its blocks elsewhere",
    "qwen3_moe": r"^Qwen3MoeForCausalLM holds 8\d% of the weights of its blocks elsewhere",
    "olmoe": r"^OlmoeForCausalLM holds 90% of the weights of its blocks elsewhere",
    "gpt_oss": r"^GptOssForCausalLM holds 90% of the weights of its blocks elsewhere",
    "jamba": r"^JambaForCausalLM holds \d+% of the weights of its blocks elsewhere",
}


def made(family: str, dropout: float | None = None):
    logging.set_verbosity_error()
    config = CONFIG_MAPPING[family]
    known = {name: value for name, value in SMALL.items() if hasattr(config(), name)}
    found = config(**known)
    if dropout is not None:
        for name, value in vars(found).items():
            if "drop" in name and isinstance(value, float):
                setattr(found, name, dropout)
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(found).eval()


@pytest.mark.parametrize("family", PRUNED)
def test_a_family_is_pruned_walked_streamed_and_scored_as_transformers_scores_it(family):
    model = made(family)
    own = model(input_ids=TOKENS, labels=TOKENS).loss.item()
    dense, states = evaluate(model, TOKENS.numpy(), keep=True)
    assert dense.nll.sum().item() / TOKENS[:, 1:].numel() == pytest.approx(own, rel=1e-5)

    streamed, _ = evaluate(model, TOKENS.numpy(), device=torch.device("cpu"))
    assert torch.equal(streamed.nll, dense.nll)
    with emulated.device() as held:  # nothing is left where it does not belong
        evaluate(model, TOKENS.numpy(), device=emulated.DEVICE)
        walk(model, TOKENS, lambda _, layers: [layer.inputs.norms() for layer in layers], device=emulated.DEVICE)
    assert 0 < held.peak < sum(p.nbytes for p in model.parameters())
    prune(model, WANDA, TOKENS)
    zeros = count_zeros(model)
    assert zeros.prunable == pytest.approx(0.5, abs=0.01)
    matrices = sum(p.numel() for p in blocks(model).parameters() if p.ndim > 1)
    assert zeros.prunable_parameters >= 0.95 * matrices, "what is called the linear layers inside the blocks is what the blocks are made of"
    resident, _ = evaluate(model, TOKENS.numpy(), 1, states)
    streamed, _ = evaluate(model, TOKENS.numpy(), 1, states, device=torch.device("cpu"))
    assert torch.equal(streamed.nll, resident.nll)
    assert torch.equal(streamed.kl, resident.kl)


@pytest.mark.parametrize("family", PRUNED)
def test_nothing_is_dropped_while_a_family_is_retrained_so_a_seed_is_enough(family):
    found = []
    for seed in (1, 2):
        model = made(family, dropout=0.5)
        torch.manual_seed(seed)
        recover(model, TOKENS, 1, 1e-3)
        found.append(model)
    for (name, one), other in zip(found[0].named_parameters(), found[1].parameters(), strict=True):
        assert torch.equal(one, other), name
    model.train()
    drops = bool((model(input_ids=TOKENS).logits != model(input_ids=TOKENS).logits).any())
    assert drops == (family not in WITHOUT_DROPOUT), "as it was before"


def test_a_family_whose_blocks_get_more_of_the_tokens_than_their_input_is_not_walked():
    """Gemma 3n feeds each block a second embedding of the tokens; taken from the first sample, all others would be scored wrongly."""
    sizes = {"hidden_size_per_layer_input": 16, "vocab_size_per_layer_input": 64, "laurel_rank": 8, "altup_num_inputs": 2}
    layers = {"layer_types": ["full_attention"] * 3, "activation_sparsity_pattern": [0.0] * 3, "num_kv_shared_layers": 0}
    kind = CONFIG_MAPPING["gemma3n_text"]
    config = kind(**{name: value for name, value in SMALL.items() if hasattr(kind(), name)} | sizes | layers)
    model = AutoModelForCausalLM.from_config(config).eval()
    said = r"^Gemma3nForCausalLM gives its blocks more than their input that hangs on the tokens or on blocks before, .* \(methods: \[magnitude\]\)"
    with pytest.raises(ImpossibleTrialError, match=said):
        prune(model, WANDA, TOKENS)
    with pytest.raises(LotteryError, match=said) as caught:
        evaluate(model, TOKENS.numpy(), device=torch.device("cpu"))
    assert not isinstance(caught.value, ImpossibleTrialError), "with more memory it can be scored"
    evaluate(model, TOKENS.numpy())


@pytest.mark.parametrize("family", REFUSED)
def test_a_family_that_would_be_pruned_in_part_is_refused_by_name(family):
    with pytest.raises(LotteryError, match=REFUSED[family]):
        prune(made(family), WANDA, TOKENS)


def test_a_list_of_experts_within_a_block_is_not_taken_for_the_blocks():
    """More experts than layers, each a module of its own: the longest list is not the blocks."""
    model = made("llama")
    for block in model.model.layers:
        block.mlp.experts = torch.nn.ModuleList(torch.nn.Linear(4, 4) for _ in range(8))
    assert blocks(model) is model.model.layers
