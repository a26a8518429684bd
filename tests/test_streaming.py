"""Models whose blocks wait in main memory and are streamed to the device."""

import numpy as np
import pytest
import torch

from benchmarks import emulated
from benchmarks.shapes import SHAPES, unfilled
from lottery.data.calibration import calibration
from lottery.data.corpus import corpus, windows
from lottery.evaluation.evaluate import evaluate
from lottery.models import loading
from lottery.models.checkpoints import Checkpoint
from lottery.pruning.prune import prune
from lottery.pruning.variants import DENSE, Variant
from tests.test_likelihood import CPU

CALIBRATED = Variant("wanda", "owl", "unstructured", 0.5)
VARIANTS = [
    DENSE,
    Variant("magnitude", "uniform", "unstructured", 0.5),
    Variant("magnitude-global", "uniform", "unstructured", 0.5),
    CALIBRATED,
    Variant("wanda", "uniform", "2:4", 0.5),
    Variant("random", "uniform", "unstructured", 0.7),
    Variant("magnitude", "alphapruning", "unstructured", 0.5),
    Variant("sparsegpt", "uniform", "unstructured", 0.6),
    Variant("admm", "uniform", "unstructured", 0.6),
    Variant("alps", "uniform", "2:4", 0.5),
]


@pytest.mark.parametrize(("name", "variants"), [(name, VARIANTS if name == "phi-2" else [DENSE, CALIBRATED]) for name in SHAPES])
def test_streamed_and_resident_are_equal_to_the_bit(name, variants):
    """Every architecture, methods with and without calibration, a last batch that is smaller than the others."""
    checkpoint = Checkpoint(name, "stand-in", name)
    tokenizer = loading.tokenizer(checkpoint)
    tokens = windows(tokenizer, corpus("stories"), 96, 5).tokens
    samples = calibration(tokenizer, corpus("training-stories"), 3, 40, 0).tokens
    states = None
    for variant in variants:
        found = []
        for device in (None, torch.device("cpu")):
            model = loading.load(checkpoint, CPU)
            prune(model, variant, samples, device=device)
            found.append(evaluate(model, tokens, 2, states, keep=states is None, device=device))
        (resident, kept), (streamed, kept_too) = found
        for field, a, b in zip(resident._fields, resident, streamed, strict=True):
            assert torch.equal(a, b), (variant.label, field)
        if states is None:
            assert torch.equal(kept, kept_too)
            states = kept


@pytest.mark.parametrize("name", ["mistral-7b", "qwen2.5-7b", "qwen2.5-0.5b"])
def test_a_device_of_2_gb_is_enough_for_7_billion_weights(name):
    """Dense and a variant beside it, in windows of 2048."""
    model, tokens = unfilled(name), np.zeros((2, 2048), dtype=np.int64)
    with emulated.device() as held:
        _, states = evaluate(model, tokens, keep=True, device=emulated.DEVICE)
        evaluate(model, tokens, dense=states, device=emulated.DEVICE)
    assert held.peak > max(sum(p.nbytes for p in block.parameters()) for block in model.model.layers), "a block is there"
    assert held.peak < 2e9
    assert held.now == 0
    assert {p.device.type for p in model.parameters()} == {"cpu"}
