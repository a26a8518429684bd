import psutil
import pytest
import torch

from lottery import memory
from lottery.corpus import corpus, prompts
from lottery.generation import decode_bytes, generate, greedy, sampler, speed
from tests.test_likelihood import loaded


def prompt_for(tokens):
    return tokens(prompts(corpus("stories"), 1, 20)[0], return_tensors="pt").input_ids


def test_greedy_equals_transformers_own_generate_token_by_token():
    for name in ("mistral-7b", "phi-2", "qwen2.5-0.5b"):
        model, tokens = loaded(name)
        prompt = prompt_for(tokens)
        expected = model.generate(prompt, max_new_tokens=30, min_new_tokens=30, do_sample=False, pad_token_id=0)[0, prompt.shape[1] :]
        found = generate(model, prompt, 30, greedy)
        assert found.tokens.tolist() == expected.tolist(), name
        assert min(found.prefill, found.decode) > 0


def test_exactly_so_many_tokens_even_after_an_end_of_text():
    model, tokens = loaded("phi-2")
    found = generate(model, prompt_for(tokens), 12, lambda logits: torch.tensor([0]))
    assert found.tokens.tolist() == [0] * 12


def test_one_seed_draws_alike_and_never_a_banned_token():
    logits = torch.randn(50)
    draw = lambda seed: [int(choose(logits)) for choose in [sampler(1.5, seed, banned=[3, 4])] for _ in range(200)]  # noqa: E731
    assert draw(1) == draw(1) != draw(2)
    assert not {3, 4} & set(draw(1))


def test_broken_logits_still_give_a_token():
    for value in (torch.nan, torch.inf, -torch.inf):
        assert 0 <= int(sampler(0.7, 0, banned=[0])(torch.full((8,), value))) < 8


def test_speed_times_every_repeat_as_a_whole_and_in_its_two_halves():
    model, tokens = loaded("qwen2.5-0.5b")
    prompt = prompt_for(tokens)
    measured = speed(model, prompt, 6, 4)
    halves = zip(measured.prefill_tokens_per_second, measured.decode_tokens_per_second, strict=True)
    seconds = [prompt.shape[1] / prefill + 5 / decode for prefill, decode in halves]
    assert measured.tokens_per_second == pytest.approx([6 / second for second in seconds])
    assert len(measured.tokens_per_second) == 4
    assert "cores" in measured.device or torch.cuda.is_available()


def test_an_embedding_that_is_not_the_head_is_not_read_while_decoding():
    tied, _ = loaded("qwen2.5-0.5b")
    assert decode_bytes(tied) == sum(p.numel() * p.element_size() for p in tied.parameters())
    own, _ = loaded("mistral-7b")
    embedding = own.get_input_embeddings().weight
    assert decode_bytes(own) == sum(p.numel() * p.element_size() for p in own.parameters()) - embedding.numel() * embedding.element_size()


def test_memory_peaks_and_bandwidth_are_those_of_this_machine():
    device = torch.device("cpu")
    memory.reset_peak(device)
    before, kind = memory.peak(device)
    torch.ones(32 << 20, dtype=torch.uint8)
    assert kind == "resident memory"
    assert memory.peak(device)[0] - before >= 30 << 20
    assert 1e8 < memory.bandwidth(device) < 1e13
    assert 0 <= memory.others(device) < psutil.virtual_memory().total
