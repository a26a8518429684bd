import torch

from lottery.corpus import corpus, prompts
from lottery.generation import generate, greedy, sampler, speed
from tests.test_perplexity import loaded


def prompt_for(tokens):
    return tokens(prompts(corpus("stories"), 1, 20)[0], return_tensors="pt").input_ids


def test_greedy_equals_transformers_own_generate_token_by_token():
    for name in ("mistral-7b", "phi-2", "qwen2.5-0.5b"):
        model, tokens = loaded(name)
        prompt = prompt_for(tokens)
        expected = model.generate(prompt, max_new_tokens=30, min_new_tokens=30, do_sample=False, pad_token_id=0)[0, prompt.shape[1] :]
        found, seconds = generate(model, prompt, 30, greedy)
        assert found.tolist() == expected.tolist(), name
        assert seconds > 0


def test_exactly_so_many_tokens_even_after_an_end_of_text():
    model, tokens = loaded("phi-2")
    found, _ = generate(model, prompt_for(tokens), 12, lambda logits: torch.tensor([0]))
    assert found.tolist() == [0] * 12


def test_one_seed_draws_alike_and_never_a_banned_token():
    logits = torch.randn(50)
    draw = lambda seed: [int(choose(logits)) for choose in [sampler(1.5, seed, banned=[3, 4])] for _ in range(200)]  # noqa: E731
    assert draw(1) == draw(1) != draw(2)
    assert not {3, 4} & set(draw(1))


def test_broken_logits_still_give_a_token():
    for value in (torch.nan, torch.inf, -torch.inf):
        assert 0 <= int(sampler(0.7, 0, banned=[0])(torch.full((8,), value))) < 8


def test_speed_times_every_repeat_and_labels_its_memory():
    model, tokens = loaded("qwen2.5-0.5b")
    measured = speed(model, prompt_for(tokens), 6, 4)
    assert len(measured.tokens_per_second) == len(measured.decode_tokens_per_second) == 4
    assert min(measured.tokens_per_second) > 0
    assert measured.peak_kind == ("GPU memory" if torch.cuda.is_available() else "resident memory")
    assert measured.peak_bytes > sum(p.numel() * p.element_size() for p in model.parameters())
