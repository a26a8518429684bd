"""Magnitude pruning of one 4096 × 14336 layer beside torch.nn.utils.prune, and beside a copy of the layer as the floor."""

import torch
from torch import nn
from torch.nn.utils import prune as torch_prune

from benchmarks.alternate import alternate, arguments, publish
from lottery.common.format import dtype_name
from lottery.pruning.layer_spec import LayerSpec
from lottery.pruning.methods.magnitude import magnitude_

SHAPE, SPARSITY = (4096, 14336), 0.5
DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def by_torch(weight: torch.Tensor) -> torch.Tensor:
    layer = nn.Module()
    layer.register_parameter("weight", nn.Parameter(weight, requires_grad=False))
    torch_prune.l1_unstructured(layer, "weight", SPARSITY)
    torch_prune.remove(layer, "weight")
    return layer.weight.data


def by_lottery(weight: torch.Tensor) -> torch.Tensor:
    magnitude_(weight, LayerSpec("layer", SPARSITY))
    return weight


def compare(dtype: torch.dtype, device: torch.device, rounds: int) -> dict:
    torch.manual_seed(0)
    weight = torch.randn(SHAPE).to(device, dtype)
    seconds, held, results = alternate({"lottery": by_lottery, "torch": by_torch, "copy": torch.clone}, weight.clone, device, rounds)
    zeros = {int((results[name] == 0).sum()) for name in ("lottery", "torch")}
    if zeros != {round(SPARSITY * weight.numel())}:
        raise AssertionError(f"{dtype}: the contestants left {zeros} zeros")
    layer = weight.numel() * weight.element_size()
    return {
        "dtype": dtype_name(dtype),
        **{f"{name}_seconds": taken for name, taken in seconds.items()},
        "times_faster_than_torch": seconds["torch"] / seconds["lottery"],
        "times_a_copy": seconds["lottery"] / seconds["copy"],
        "extra_memory_of_layer": held["lottery"] / layer,
        "extra_memory_of_layer_torch": held["torch"] / layer,
    }


if __name__ == "__main__":
    device, rounds = arguments()
    publish("selection", device, rounds, [compare(dtype, device, rounds) for dtype in DTYPES], shape=SHAPE, sparsity=SPARSITY)
