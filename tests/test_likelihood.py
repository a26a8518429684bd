import math

import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM

from lottery.data.corpus import corpus, windows
from lottery.evaluation import likelihood
from lottery.evaluation.evaluate import evaluate
from lottery.evaluation.likelihood import Head, likelihoods
from lottery.models import loading
from lottery.pruning.prune import prune
from lottery.pruning.variants import Variant
from tests.test_checkpoints import of

NAMES = ["mistral-7b", "phi-2", "qwen2.5-0.5b"]
CPU = loading.Plan(torch.device("cpu"), torch.float32, "a test")


def loaded(name):
    checkpoint = of(model=name, checkpoints={name: f"stand-in:{name}"})
    return loading.load(checkpoint, CPU), loading.tokenizer(checkpoint)


def pruned(name):
    model, _ = loaded(name)
    prune(model, Variant("magnitude", "uniform", "unstructured", 0.6))
    return model


@pytest.mark.parametrize("name", NAMES)
def test_equal_to_a_plain_loop_over_the_models_own_loss(name):
    model, tokens = loaded(name)
    found = windows(tokens, corpus("stories"), 300, 5)
    scored, _ = evaluate(model, found.tokens, batch_size=2)
    for row, nll in zip(torch.from_numpy(found.tokens), scored.nll, strict=True):
        with torch.no_grad():
            loss = model(input_ids=row[None], labels=row[None]).loss.item()
        assert float(nll) == pytest.approx(299 * loss, rel=1e-5)
    assert scored.kl.tolist() == [0.0] * 5
    assert scored.agreed.tolist() == [299.0] * 5


@pytest.mark.parametrize("name", NAMES)
def test_the_batch_size_changes_nothing(name):
    model, tokens = loaded(name)
    found = windows(tokens, corpus("stories"), 128, 7)
    one, _ = evaluate(model, found.tokens, batch_size=1)
    for batch_size in (2, 3, 7, 50):
        assert torch.allclose(evaluate(model, found.tokens, batch_size)[0].nll, one.nll, rtol=1e-5, atol=0)


@pytest.mark.parametrize("stretch", [7, 100, 1 << 13])
def test_divergence_and_agreement_against_their_definitions(stretch, monkeypatch):
    """In float64 from whole logits, whether the vocabulary passes in one stretch or in many."""
    monkeypatch.setattr(likelihood, "_STRETCH", {"cpu": stretch})
    dense, tokens = loaded("qwen2.5-0.5b")
    model = pruned("qwen2.5-0.5b")
    found = windows(tokens, corpus("stories"), 64, 3).tokens
    _, states = evaluate(dense, found, 2, keep=True)
    scored, nothing = evaluate(model, found, 2, states)
    assert nothing is None
    with torch.no_grad():
        p, q = (m(input_ids=torch.from_numpy(found)).logits[:, :-1].double().log_softmax(-1) for m in (dense, model))
    targets = torch.from_numpy(found)[:, 1:, None]
    assert torch.allclose(scored.nll, -q.gather(-1, targets).squeeze(-1).sum(1), rtol=1e-5)
    assert torch.allclose(scored.kl, (p.exp() * (p - q)).sum(-1).sum(1), rtol=1e-4)
    assert (scored.agreed == (p.argmax(-1) == q.argmax(-1)).sum(1)).all()


def test_a_full_window_of_logits_never_exists(monkeypatch):
    """The largest tensor that the head makes is a slice of positions by a stretch of the vocabulary."""
    monkeypatch.setattr(likelihood, "_STRETCH", {"cpu": 50})
    monkeypatch.setattr(likelihood, "_LOGITS", {"cpu": 1000})
    model, tokens = loaded("qwen2.5-0.5b")
    made = []
    model.get_output_embeddings().register_forward_hook(lambda _, __, output: made.append(output.numel()))
    evaluate(model, windows(tokens, corpus("stories"), 64, 2).tokens, 2)
    assert max(made) == 20 * 50
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight, "the head is whole and tied again"


def test_what_a_model_does_behind_its_head_is_done():
    """Gemma-2 caps its logits."""
    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=60, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, head_dim=16,
        final_logit_softcapping=0.5, sliding_window=8,
    )  # fmt: skip
    model = Gemma2ForCausalLM(config).eval()
    tokens = torch.randint(60, (2, 24))
    scored, _ = evaluate(model, tokens.numpy())
    for row, nll in zip(tokens, scored.nll, strict=True):
        with torch.no_grad():
            assert float(nll) == pytest.approx(23 * model(input_ids=row[None], labels=row[None]).loss.item(), rel=1e-5)


def test_logits_that_are_no_numbers_give_no_number_and_no_crash():
    model, _ = loaded("qwen2.5-0.5b")
    hidden = torch.zeros(1, 4, model.config.hidden_size)
    broken = hidden.clone()
    broken[0, 1] = math.nan
    tokens = torch.zeros(1, 4, dtype=torch.int64)
    assert torch.isfinite(likelihoods(Head(model), hidden, tokens).nll).all()
    found = likelihoods(Head(model), broken, tokens, hidden)
    assert not torch.isfinite(found.nll).any()
    assert not torch.isfinite(found.kl).any()


def test_on_a_gpu_that_is_nearly_full_slices_of_logits_are_small(monkeypatch):
    """A T4 with a 7B model on it: 700 MiB are left, and slices of the usual size would want 2 GiB."""
    sizes = {"free": 700 << 20, "reserved": 13 << 30, "allocated": (13 << 30) - (100 << 20)}
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (sizes["free"], 15 << 30))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: sizes["reserved"])
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: sizes["allocated"])
    card = torch.device("cuda", 0)
    assert 4 * likelihood._COPIES * likelihood._at_one_time(card) <= 800 << 20
    sizes["free"] = 60 << 30
    assert likelihood._at_one_time(card) == likelihood._LOGITS["cuda"]
    sizes.update(free=0, allocated=13 << 30)
    assert likelihood._at_one_time(card) == 1 << 20, "torch's own error is better than no progress"
