"""The benchmarks' own ground: the true shapes are those of the published checkpoints."""

import pytest

from benchmarks.shapes import skeleton
from lottery.models.blocks import prunable

# Unique parameters, and those of the linears inside the blocks, as the checkpoints' own files have them.
PUBLISHED = {
    "mistral-7b": (7_241_732_096, 6_979_321_856),
    "qwen2.5-7b": (7_615_616_512, 6_525_288_448),
    "smollm2-1.7b": (1_711_376_384, 1_610_612_736),
    "phi-2": (2_779_683_840, 2_516_582_400),
    "qwen2.5-0.5b": (494_032_768, 357_826_560),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_true_shapes_have_as_many_parameters_as_the_published_models(name):
    model = skeleton(name)
    counts = sum(p.numel() for p in model.parameters()), sum(layer.weight.numel() for layer in prunable(model).values())
    assert counts == PUBLISHED[name]
