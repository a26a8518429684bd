"""RIA: relative importance and activations (Zhang et al., ICLR 2024, "Plug-and-Play")."""

import torch

from lottery.pruning.activations import ActivationStats
from lottery.pruning.layer_spec import LayerSpec, prune_lowest_
from lottery.pruning.registry import method
from lottery.pruning.selection import score_chunks


@method(
    "ria",
    "prunes the relatively smallest weights of each layer: fraction of the row plus of the column, times the root of the input norm",
    "Zhang et al., ICLR 2024",
    needs="norms",
)
def ria_(weight: torch.Tensor, spec: LayerSpec, inputs: ActivationStats) -> None:
    """Prune the lowest scores of the layer, or of every group with N:M.

    The score is (|W_ij| / Σ_i|W_ij| + |W_ij| / Σ_j|W_ij|) · ‖X_j‖₂^½, in float32. A weight counts as its share of its output channel and of
    its input channel, so that no channel is cut off whole because its weights are small. Since the shares compare across rows, the lowest
    are sought in the whole layer, the default of the authors' code.
    """
    columns, totals = weight.new_zeros(weight.shape[1], dtype=torch.float32), []
    for _, magnitudes in score_chunks(weight, lambda rows, which: rows.abs().float())():
        columns += magnitudes.sum(0)
        totals.append(magnitudes.sum(1))
    totals = torch.cat(totals)
    for sums in (columns, totals):
        sums[sums == 0] = 1  # a row or column of zeros has no shares: 0, not 0 / 0
    roots = inputs.norms().sqrt()
    by_column = roots / columns

    def score(rows: torch.Tensor, which: slice) -> torch.Tensor:
        return rows.abs().float() * (by_column + roots / totals[which, None])

    prune_lowest_(weight, score, spec, comparison_group="layer")
