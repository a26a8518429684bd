"""L-ADMM (Boža 2024, arXiv 2401.02938): choose the mask and the weights that stay in turns, by the method of multipliers."""

import torch

from lottery.pruning.activations import ActivationStats
from lottery.pruning.layer_spec import LayerSpec
from lottery.pruning.registry import method

ITERATIONS = 20
RAMP = 15  # iterations in which the sparsity rises, as a cube; after them the mask stays
PENALTY = 1.0  # ρ
DAMPING = 0.1  # of the mean diagonal of the scaled products


@method(
    "admm",
    "chooses mask and weights in turns by the method of multipliers, the sparsity rising",
    "Boža 2024, arXiv 2401.02938",
    needs="hessian",
    version=2,  # 1 chose the zeros of each row
)
def admm_(weight: torch.Tensor, spec: LayerSpec, inputs: ActivationStats, dtype: torch.dtype = torch.float32) -> None:
    """Prune a layer and update what stays, so that its outputs on the calibration inputs change least.

    Inputs are scaled to norm 1, and weights to match. With H the scaled and damped products, M = (H + ρI)⁻¹, ρ = 1, and U = 0 it repeats 20
    times: Z is W + U without its lowest weights, U becomes W + U - Z, and W becomes M(HW₀ + ρ(Z - U)). In the first 15 iterations the
    sparsity rises to the one asked for, s - s(1 - t/15)³, as in the paper; then the mask stays, and at last the weights are W + U under it.
    The lowest are those of the whole layer, as in the authors' runs, or with N:M of each group, from the start. The authors' code lets the
    sparsity rise where it chooses by rows, and asks for all of it at once where it chooses over the layer; here the two go together.

    Args:
        weight: Weights [out, in].
        spec: What to prune.
        inputs: Statistics of the layer's inputs, with products.
        dtype: The dtype to compute in; the result is cast back to the weight's own.

    Raises:
        LotteryError: The pattern does not fit, as in ``LayerSpec.check``, or a weight is not finite.
    """
    spec.check_values(weight)
    products, inverse, norms = inputs.shared("admm", lambda stats: _scaled(stats, dtype))
    current = weight.to(dtype) * norms
    target, dual = current @ products, torch.zeros_like(current)
    for step in range(ITERATIONS):
        moved = current + dual
        if step < RAMP:
            gone, _ = spec.lowest(moved, spec.sparsity * (1 - (1 - (step + 1) / RAMP) ** 3))
        kept = moved.masked_fill(gone, 0)
        dual = moved.sub_(kept)
        current = (target + PENALTY * (kept - dual)) @ inverse
    weight.copy_((current + dual).masked_fill_(gone, 0) / norms)


def _scaled(inputs: ActivationStats, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the products of inputs scaled to norm 1, damped [in, in], the inverse that the iteration needs, and the norms [in]."""
    products = inputs.gram.to(dtype)
    norms = products.diagonal().sqrt() + 1e-8
    products = products / norms / norms[:, None]
    products.diagonal().add_(DAMPING * products.diagonal().mean())
    ridge = products.clone()
    ridge.diagonal().add_(PENALTY)
    return products, torch.cholesky_inverse(torch.linalg.cholesky(ridge)), norms
