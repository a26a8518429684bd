import hashlib
import json
import re
from itertools import islice

import pytest

from lottery.data.corpus import corpus
from lottery.data.stories import scored
from lottery.data.stories.world import is_test, stories
from lottery.models.checkpoints import STAND_INS
from lottery.models.standins.architectures import ARCHITECTURES
from lottery.training.standins import SCHEDULES, Schedule, train


def first(seed, count, *, test=False):
    return list(islice(stories(seed, test=test), count))


def test_a_seed_gives_the_same_stories_on_every_python():
    digest = hashlib.sha256("".join(first(1, 500)).encode()).hexdigest()
    assert digest == "547c4ec78669c214d96c4c6b7900fb600a3c90e1263475f38b3f9aa35ffe3d07"


def test_training_and_test_never_overlap():
    train_texts, test_texts = set(first(1, 3000)), set(first(2, 60, test=True))
    assert not train_texts & test_texts
    assert not any(is_test(text) for text in train_texts)
    assert set(corpus("stories").rows) >= test_texts


def test_the_stories_to_score_are_the_first_for_testing():
    assert corpus("stories").rows == tuple(first(scored.SEED, 150, test=True))


def test_a_few_thousand_words_and_varied_sentences():
    texts = first(1, 20_000)
    assert len({word.lower() for text in texts for word in re.findall(r"[A-Za-z]+", text)}) > 2_400
    assert len(set(texts)) == len(texts)


def test_the_article_fits_the_word():
    text = "\n".join(first(3, 3000))
    assert not re.findall(r"\b[Aa] [aeiou]\w+", text)
    assert set(re.findall(r"\b[Aa]n ([^aeiou]\w+)", text)) == {"honest"}


def test_facts_carry_on():
    """Whoever has a thing at the end got it before, and a count that is left is what was there less what went."""
    numbers = "zero one two three four five six seven eight nine ten eleven twelve".split()
    sums = 0
    for text in first(4, 2000):
        for owned, given, left in re.findall(
            r"(?:had|bought|picked) (\w+) \w+(?: in a basket| there)?\. (?:She gave |He gave |\w+ was hungry and ate )?(\w+) of them[^.]*\."
            r" (?:So \w+ had|Then there (?:was|were) only) (\w+) ",
            text,
        ):
            assert numbers.index(owned) - numbers.index(given.lower()) == numbers.index(left)
            sums += 1
        closing = text.split("\n\n")[-1]
        for thing in re.findall(r"\b[Tt]he (\w+ \w+)(?: and|,| was| were|\.)", closing):
            if "day" not in thing:
                assert text.count(thing.split()[1]) >= 2, (thing, text)
    assert sums > 300


def test_the_training_script_repeats_itself(tmp_path, monkeypatch):
    """Two short trainings give the same bytes; that the weights that ship come from the script's full schedules takes hours to repeat."""
    monkeypatch.setattr("lottery.training.standins.JUDGED_STORIES", 2)
    for run in ("a", "b"):
        train("qwen2.5-0.5b", tmp_path / run, steps=3)
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == (tmp_path / "b" / "model.safetensors").read_bytes()
    assert (tmp_path / "a" / "tokenizer.json").read_bytes() == (STAND_INS / "qwen2.5-0.5b" / "tokenizer.json").read_bytes()


def test_the_weights_that_ship_are_small_and_levelled_off():
    assert sum(path.stat().st_size for path in STAND_INS.rglob("*") if path.is_file()) <= 12_000_000
    assert not [path for path in STAND_INS.rglob("*") if path.suffix in {".bin", ".pt", ".pkl", ".py"}]
    for name in ARCHITECTURES:
        facts = json.loads((STAND_INS / name / "training.json").read_text())
        assert {key: facts[key] for key in Schedule._fields} == SCHEDULES[name]._asdict(), f"{name} was trained on another schedule"
        assert facts["known_persons"] > 0.95, f"{name} names persons whom its story does not know"
        curve = facts["curve"]
        last, before = curve[-1]["test_perplexity"], next(p["test_perplexity"] for p in curve if p["step"] >= 0.95 * curve[-1]["step"])
        assert before / last < 1.01, f"{name} was still improving: {before} to {last}"


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_each_stand_in_has_its_originals_specialities(name):
    from lottery.models.loading import skeleton
    from tests.test_checkpoints import of

    model = skeleton(of(model=name, checkpoints={name: f"stand-in:{name}"}))
    config, block = model.config, model.model.layers[0]
    kinds = {
        "mistral-7b": "MistralForCausalLM", "qwen2.5-7b": "Qwen2ForCausalLM", "smollm2-1.7b": "LlamaForCausalLM",
        "phi-2": "PhiForCausalLM", "qwen2.5-0.5b": "Qwen2ForCausalLM",
    }  # fmt: skip
    assert type(model).__name__ == kinds[name]
    assert 3e5 < sum(p.numel() for p in model.parameters()) < 2.1e6
    assert (model.get_input_embeddings().weight is model.get_output_embeddings().weight) == (name in {"smollm2-1.7b", "qwen2.5-0.5b"})
    heads = config.num_attention_heads // config.num_key_value_heads
    assert heads == {"mistral-7b": 4, "qwen2.5-7b": 7, "smollm2-1.7b": 1, "phi-2": 1, "qwen2.5-0.5b": 7}[name]
    assert (getattr(config, "sliding_window", None) is not None) == (name == "mistral-7b")
    assert (block.self_attn.q_proj.bias is not None) == (name in {"qwen2.5-7b", "phi-2", "qwen2.5-0.5b"})
    if name == "phi-2":
        assert config.rope_parameters["partial_rotary_factor"] == 0.5
        assert type(block.input_layernorm).__name__ == "LayerNorm"
        assert not hasattr(block, "post_attention_layernorm")
