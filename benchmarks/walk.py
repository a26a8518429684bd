"""A whole walk of each stand-in with Wanda beside the time of its forward passes alone."""

import torch

from benchmarks.alternate import alternate, arguments, publish
from lottery.data.calibration import calibration
from lottery.data.corpus import corpus
from lottery.models import loading
from lottery.models.blocks import blocks
from lottery.models.checkpoints import Checkpoint, stand_ins
from lottery.pruning.prune import prune
from lottery.pruning.variants import Variant

SAMPLES, TOKENS = 16, 512
VARIANT = Variant("wanda", "uniform", "unstructured", 0.5)


@torch.inference_mode()
def passes(model, samples: torch.Tensor) -> None:
    """As many passes through each block as the walk makes: two a sample, but one through the last block."""
    chain = blocks(model)
    last = chain[-1].forward
    for sample in samples:
        model.base_model(input_ids=sample[None], use_cache=False)
    chain[-1].forward = lambda state, *_, **__: state
    for sample in samples:
        model.base_model(input_ids=sample[None], use_cache=False)
    chain[-1].forward = last


def compare(name: str, device: torch.device, rounds: int) -> dict:
    checkpoint = Checkpoint(name, "stand-in", name)
    plan = loading.Plan(device, torch.float32, "benchmark")
    samples = calibration(loading.tokenizer(checkpoint), corpus("training-stories"), SAMPLES, TOKENS, seed=0).tokens.to(device)
    contestants = {"walk": lambda model: prune(model, VARIANT, samples), "passes": lambda model: passes(model, samples)}
    seconds, _, _ = alternate(contestants, lambda: loading.load(checkpoint, plan), device, rounds)
    return {
        "model": name,
        **{f"{key}_seconds": taken for key, taken in seconds.items()},
        "overhead": seconds["walk"] / seconds["passes"] - 1,
    }


if __name__ == "__main__":
    device, rounds = arguments(5)
    publish("walk", device, rounds, [compare(name, device, rounds) for name in stand_ins()], samples=SAMPLES, tokens=TOKENS)
