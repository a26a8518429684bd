"""Random pruning: the control that every method must beat."""

import hashlib

import torch

from lottery.pruning.layer_spec import LayerSpec, prune_lowest_
from lottery.pruning.registry import method


@method("random", "prunes weights at random, as a control", "seeded draw")
def random_(weight: torch.Tensor, spec: LayerSpec, inputs: None = None) -> None:
    """Prune weights drawn at random. The draw depends only on the seed and the layer's name, so it is the same on every device.

    It is made on the CPU, at 4 bytes per weight of one layer at a time.
    """
    seed = int.from_bytes(hashlib.sha256(f"{spec.seed}:{spec.name}".encode()).digest()[:8]) >> 1
    draws = torch.rand(weight.shape, generator=torch.Generator().manual_seed(seed))
    prune_lowest_(weight, lambda rows, which: draws[which].to(rows.device), spec, comparison_group="layer")
