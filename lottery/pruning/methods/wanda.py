"""Wanda: weights and activations (Sun et al. 2023, arXiv 2306.11695)."""

import torch

from lottery.pruning.activations import ActivationStats
from lottery.pruning.layer_spec import LayerSpec, prune_lowest_
from lottery.pruning.registry import method


def wanda_scores(rows: torch.Tensor, norms: torch.Tensor) -> torch.Tensor:
    """Score weights by |W_ij| · ‖X_j‖₂, in float32.

    Args:
        rows: Rows of a layer's weights, [rows, in].
        norms: Norms of its inputs, [in].

    Returns:
        The scores, [rows, in].
    """
    return rows.abs().float() * norms


@method(
    "wanda", "prunes the lowest products of weight and input norm in each output row", "Sun et al. 2023, arXiv 2306.11695", needs="norms"
)
def wanda_(weight: torch.Tensor, spec: LayerSpec, inputs: ActivationStats) -> None:
    """Prune the lowest scores of every row: a weight is compared with those that feed the same output."""
    norms = inputs.norms()
    prune_lowest_(weight, lambda rows, which: wanda_scores(rows, norms), spec, comparison_group="row")
