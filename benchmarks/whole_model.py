"""Magnitude over a whole model of a billion weights beside the same weights pruned layer by layer."""

import torch

from benchmarks.alternate import alternate, arguments, publish
from lottery.common.format import dtype_name
from lottery.pruning.layer_spec import LayerSpec
from lottery.pruning.methods.magnitude import magnitude_, magnitude_global_

SHAPE, LAYERS, SPARSITY = (4096, 14336), 17, 0.5


def by_layer(weights: dict) -> dict:
    for weight in weights.values():
        magnitude_(weight, LayerSpec("layer", SPARSITY))
    return weights


def together(weights: dict) -> dict:
    magnitude_global_(weights, SPARSITY)
    return weights


def compare(dtype: torch.dtype, device: torch.device, rounds: int) -> dict:
    torch.manual_seed(0)
    source = torch.randn(SHAPE).to(device, dtype)
    weights = {str(index): torch.empty_like(source) for index in range(LAYERS)}

    def prepare() -> dict:
        for index, weight in enumerate(weights.values()):  # layers of different scale, so that the shares differ
            torch.mul(source, 0.7 + 0.05 * index, out=weight)
        return weights

    seconds, held, results = alternate({"by_layer": by_layer, "whole_model": together}, prepare, device, rounds)
    total = sum(weight.numel() for weight in weights.values())
    zeros = sum(int((weight == 0).sum()) for weight in results["whole_model"].values())
    if zeros != round(SPARSITY * total):
        raise AssertionError(f"{dtype}: {zeros} zeros of {total}")
    return {
        "dtype": dtype_name(dtype),
        "weights": f"{total:,}",
        **{f"{name}_seconds": taken for name, taken in seconds.items()},
        "times_by_layer": seconds["whole_model"] / seconds["by_layer"],
        "extra_memory_mb": held["whole_model"] / 1e6,
    }


if __name__ == "__main__":
    device, rounds = arguments(2)
    rows = [compare(dtype, device, rounds) for dtype in (torch.bfloat16, torch.float32)]
    publish("whole_model", device, rounds, rows, shape=SHAPE, layers=LAYERS, sparsity=SPARSITY)
