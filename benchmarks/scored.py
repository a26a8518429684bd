"""Wanda and RIA on one 4096 × 14336 layer beside one sort of the scores along the rows, which is how they are usually done."""

import torch

from benchmarks.alternate import alternate, arguments, publish
from lottery.common.format import dtype_name
from lottery.pruning.activations import ActivationStats
from lottery.pruning.layer_spec import LayerSpec
from lottery.pruning.methods.ria import ria_
from lottery.pruning.methods.wanda import wanda_

SHAPE, SPARSITY = (4096, 14336), 0.5


def compare(dtype: torch.dtype, device: torch.device, rounds: int) -> dict:
    torch.manual_seed(0)
    weight = torch.randn(SHAPE).to(device, dtype)
    inputs = ActivationStats(SHAPE[1], device)
    inputs.add(torch.randn(64, SHAPE[1]).to(device))
    scores = weight.float().abs() * inputs.norms()

    def by(method):
        def prune(layer: torch.Tensor) -> torch.Tensor:
            method(layer, LayerSpec("layer", SPARSITY), inputs)
            return layer

        return prune

    contestants = {"wanda": by(wanda_), "ria": by(ria_), "sort": lambda _: scores.sort(dim=1).values[:, 0].clone()}
    seconds, held, results = alternate(contestants, weight.clone, device, rounds)
    for name in ("wanda", "ria"):
        if int((results[name] == 0).sum()) != round(SPARSITY * weight.numel()):
            raise AssertionError(f"{name} left another number of zeros")
    layer = weight.numel() * weight.element_size()
    return {
        "dtype": dtype_name(dtype),
        **{f"{name}_seconds": taken for name, taken in seconds.items()},
        **{f"{name}_times_a_sort": seconds[name] / seconds["sort"] for name in ("wanda", "ria")},
        **{f"{name}_extra_memory_of_layer": held[name] / layer for name in ("wanda", "ria", "sort")},
    }


if __name__ == "__main__":
    device, rounds = arguments()
    rows = [compare(dtype, device, rounds) for dtype in (torch.bfloat16, torch.float32)]
    publish("scored", device, rounds, rows, shape=SHAPE, sparsity=SPARSITY)
