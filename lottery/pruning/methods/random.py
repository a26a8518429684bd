"""Random pruning: the control that every method must beat."""

import torch

from lottery.common import hashing
from lottery.pruning.layer_spec import LayerSpec, prune_lowest_
from lottery.pruning.registry import method


@method("random", "prunes weights at random, as a control", "seeded draw")
def random_(weight: torch.Tensor, spec: LayerSpec, inputs: None = None) -> None:
    """Prune weights drawn at random. The draw depends only on the seed and the layer's name, so it is the same on every device.

    It is made on the CPU, at 4 bytes per weight of one layer at a time.
    """
    generator = torch.Generator().manual_seed(hashing.seed(f"{spec.seed}:{spec.name}"))
    draws = torch.rand(weight.shape, generator=generator)
    prune_lowest_(weight, lambda rows, which: draws[which].to(rows.device), spec, comparison_group="layer")
