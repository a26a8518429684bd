import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lottery import loading
from lottery.calibration import calibration
from lottery.checkpoints import STAND_INS, Checkpoint
from lottery.corpus import corpus, windows
from lottery.errors import LotteryError, NotFiniteError
from lottery.evaluation import evaluate
from lottery.methods import DENSE, Variant
from lottery.pruning import prune
from lottery.streaming import evaluate_streamed
from lottery.weights import Weights
from tests.test_likelihood import CPU

NAMES = ["mistral-7b", "qwen2.5-7b", "smollm2-1.7b", "phi-2", "qwen2.5-0.5b"]
VARIANTS = [
    DENSE,
    Variant("magnitude", "uniform", "unstructured", 0.5),
    Variant("wanda", "uniform", "2:4", 0.5),
    Variant("random", "uniform", "unstructured", 0.7),
    Variant("sparsegpt", "uniform", "unstructured", 0.6),
]


def stand_in(name) -> Checkpoint:
    return Checkpoint(name, "stand-in", name)


def streamed(checkpoint, tokens, variants=VARIANTS, dtype=torch.float32, **more):
    model = loading.skeleton(checkpoint, dtype)
    return evaluate_streamed(model, Weights(checkpoint, model), variants, tokens, torch.device("cpu"), **more)


@pytest.mark.parametrize("name", NAMES)
def test_streamed_and_resident_are_equal_to_the_bit(name):
    """Every architecture, methods with and without calibration, a last batch that is smaller than the others."""
    checkpoint = stand_in(name)
    tokenizer = loading.tokenizer(checkpoint)
    tokens = windows(tokenizer, corpus("stories"), 96, 5).tokens
    samples = calibration(tokenizer, corpus("training-stories"), 3, 40, 0)
    found = streamed(checkpoint, tokens, batch_size=2, samples=samples)
    states = None
    for variant, of_walk in zip(VARIANTS, found, strict=True):
        model = loading.load(checkpoint, CPU)
        prune(model, variant, samples)
        expected, kept = evaluate(model, tokens, 2, states, keep=states is None)
        states = kept if states is None else states
        for name_, a, b in zip(expected._fields, expected, of_walk, strict=True):
            assert torch.equal(a, b), (variant.label, name_)


def copied(tmp_path, name="qwen2.5-0.5b") -> Checkpoint:
    shutil.copytree(STAND_INS / name, tmp_path / name)
    return Checkpoint(name, "folder", str(tmp_path / name))


def test_a_checkpoint_in_several_files_is_streamed_too(tmp_path):
    checkpoint = copied(tmp_path)
    tokens = windows(loading.tokenizer(checkpoint), corpus("stories"), 64, 2).tokens
    whole = streamed(checkpoint, tokens, VARIANTS[:2])
    weights = load_file(Path(checkpoint.source) / "model.safetensors")
    (Path(checkpoint.source) / "model.safetensors").unlink()
    index = {}
    for part in (0, 1):
        names = sorted(weights)[part::2]
        index |= dict.fromkeys(names, f"model-{part}.safetensors")
        save_file({name: weights[name].contiguous() for name in names}, Path(checkpoint.source) / f"model-{part}.safetensors")
    (Path(checkpoint.source) / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    again = streamed(checkpoint, tokens, VARIANTS[:2])
    assert all(torch.equal(a.nll, b.nll) for a, b in zip(whole, again, strict=True))


def test_a_checkpoint_that_is_converted_on_loading_says_so(tmp_path):
    checkpoint = copied(tmp_path)
    path = Path(checkpoint.source) / "model.safetensors"
    weights = load_file(path)
    save_file({name.replace("q_proj", "query"): weights[name] for name in weights}, path)
    with pytest.raises(
        LotteryError, match=r"cannot be streamed: its files do not hold model\.layers\.0\.self_attn\.q_proj.*memory: resident"
    ):
        Weights(checkpoint, loading.skeleton(checkpoint))


def test_a_dense_model_that_overflows_is_found_at_the_block_where_it_does(tmp_path):
    checkpoint = copied(tmp_path)
    path = Path(checkpoint.source) / "model.safetensors"
    weights = load_file(path)
    weights["model.layers.1.mlp.down_proj.weight"][:] = 6e4
    save_file(weights, path)
    tokens = windows(loading.tokenizer(checkpoint), corpus("stories"), 32, 1).tokens
    with pytest.raises(NotFiniteError, match=r"not finite behind block 1 in torch\.float16"):
        streamed(checkpoint, tokens, VARIANTS[:2], torch.float16)


def test_only_one_block_has_weights_at_a_time(monkeypatch):
    """Parameters off the meta device, counted whenever a block has been passed."""
    from lottery import streaming

    checkpoint = stand_in("qwen2.5-7b")
    tokens = windows(loading.tokenizer(checkpoint), corpus("stories"), 32, 1).tokens
    model = loading.skeleton(checkpoint, torch.float32)
    block = sum(p.numel() for p in model.model.layers[0].parameters())
    held = []

    def count(*_):
        held.append(sum(p.numel() for p in model.model.layers.parameters() if not p.is_meta))

    real = streaming._prune
    monkeypatch.setattr(streaming, "_prune", lambda *arguments: (count(), real(*arguments)))
    evaluate_streamed(model, Weights(checkpoint, model), VARIANTS[:2], tokens, torch.device("cpu"))
    assert held == [block] * len(model.model.layers)
