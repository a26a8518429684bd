"""ALPS (Meng et al. 2024, arXiv 2406.07831): the method of multipliers with a rising penalty, then conjugate gradients on what stays."""

from collections.abc import Callable

import torch

from lottery.pruning.activations import ActivationStats, not_factorized
from lottery.pruning.layer_spec import LayerSpec
from lottery.pruning.registry import method

ITERATIONS = 300  # at most
EVERY = 3  # iterations between two looks at how the support has changed
PENALTY = 0.1  # ρ to begin with
LEAST_PENALTY = 1e-4  # below it, H + ρ may not be positive definite within the rounding of float32
SETTLED = 3e-4  # of the support has changed: enough, from iteration 30 on
REFINEMENT = 10  # steps of conjugate gradients
DAMPING = 0.01  # of the mean diagonal of the products


@method(
    "alps",
    "chooses mask and weights in turns with a rising penalty, then solves for the weights that stay",
    "Meng et al. 2024, arXiv 2406.07831",
    needs="hessian",
)
def alps_(weight: torch.Tensor, spec: LayerSpec, inputs: ActivationStats, dtype: torch.dtype = torch.float32) -> None:
    """Prune a layer and update what stays, so that its outputs on the calibration inputs change least.

    Inputs are scaled to norm 1, and weights B₀ to match. With H the scaled and damped products, V = 0 and D the largest of B₀, it repeats:
    B = (H + ρ)⁻¹(HB₀ - V + ρD), D is the largest of B + V/ρ, V grows by ρ(B - D). The largest are those of the whole layer, or of each
    group with N:M. ρ rises by how much the support still changes, until it hardly does, or for 300 iterations; if nothing moves at first,
    ρ falls to a fifth and it begins again. At last the largest of B stay, and are solved for by conjugate gradients that begin at B.
    Inputs that are always 0 lose their weights. H + ρ is factorized at each ρ. The authors take eigenvalues once, in float64, and make an
    inverse from them at each ρ; that takes longer (benchmarks.alps).

    Args:
        weight: Weights [out, in].
        spec: What to prune.
        inputs: Statistics of the layer's inputs, with products.
        dtype: The dtype to iterate in; the result is cast back to the weight's own.

    Raises:
        LotteryError: The pattern does not fit, as in ``LayerSpec.check``; a weight is not finite; or H + ρ cannot be factorized.
    """
    spec.check_values(weight)
    products, norms, dead = inputs.shared("alps", lambda stats: _scaled(stats, dtype))
    dense = (weight.to(dtype) * norms).masked_fill_(dead, 0)
    target = dense @ products
    last = _settled(dense, target, products, spec)
    gone, _ = spec.lowest(last)
    kept = _solved(last.masked_fill_(gone, 0), target, products, gone)
    weight.copy_(kept / norms)


def _settled(dense: torch.Tensor, target: torch.Tensor, products: torch.Tensor, spec: LayerSpec) -> torch.Tensor:
    """Return the B [out, in] of the last iteration."""
    penalty, raised, solve, solved_for = PENALTY, False, None, None
    gone, threshold = spec.lowest(dense)
    split = dense.masked_fill(gone, 0)
    dual, before = torch.zeros_like(dense), split != 0
    kept = max(1, int(before.sum()))
    for iteration in range(1, ITERATIONS + 1):
        if penalty != solved_for:
            del solve  # the factor of the last ρ, before there is another
            solve, solved_for = _solver(products, penalty, len(dense), spec.name), penalty
        current = solve(torch.add(target, split, alpha=penalty).sub_(dual))
        moved = torch.add(current, dual, alpha=1 / penalty)
        gone, threshold = spec.lowest(moved, near=threshold)
        split = moved.masked_fill(gone, 0)
        dual = moved.sub_(split).mul_(penalty)  # which is V + ρ(B - D)
        if iteration % EVERY:
            continue
        support = split != 0
        changed, before = int((support != before).sum()) / kept, support
        if (raised and changed == 0) or (iteration >= 30 and changed < SETTLED):
            break
        if changed > 0.005:
            penalty, raised = penalty * (1.3 if changed > 0.1 else 1.2), True
        elif raised:
            penalty *= 1.1
        else:  # it began so high that nothing moved
            penalty = max(penalty / 5, LEAST_PENALTY)
            if changed:
                split, dual = dense.masked_fill(spec.lowest(dense)[0], 0), torch.zeros_like(dense)
                before = split != 0
    return current


def _solved(kept: torch.Tensor, target: torch.Tensor, products: torch.Tensor, gone: torch.Tensor) -> torch.Tensor:
    """Refine the weights that stay by conjugate gradients, each row for itself."""
    residual = (target - kept @ products).masked_fill_(gone, 0)
    direction, length = residual, residual.square().sum(1, keepdim=True)
    for _ in range(REFINEMENT):
        step = direction @ products
        curvature = (direction * step).sum(1, keepdim=True)
        share = torch.where(curvature > 0, length / curvature, 0)  # 0 once a row is solved, or if rounding hides that H curves upwards
        kept = kept + share * direction
        residual = residual - share * step.masked_fill_(gone, 0)
        longer, length = length, residual.square().sum(1, keepdim=True)
        direction = residual + torch.where(longer > 0, length / longer, 0) * direction
    return kept


def _solver(products: torch.Tensor, penalty: float, outputs: int, name: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return a function that multiplies [outputs, in] by the inverse of the products + ``penalty``."""
    ridge = products.clone()
    ridge.diagonal().add_(penalty)
    lower, failed = torch.linalg.cholesky_ex(ridge)
    if failed:
        raise not_factorized(name)
    if 3 * outputs < len(products):  # few: substitution in each iteration takes less time than an inverse in every third
        return lambda right: torch.cholesky_solve(right.T, lower).T.contiguous()
    inverse = torch.cholesky_inverse(lower)
    return lambda right: right @ inverse


def _scaled(inputs: ActivationStats, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the damped products of inputs scaled to norm 1 [in, in], the norms [in], and which inputs are always 0 [in]."""
    products = inputs.gram.to(dtype, copy=True)
    dead = products.diagonal() == 0
    products.diagonal().add_(DAMPING * products.diagonal().mean())
    norms = products.diagonal().sqrt() + 1e-8
    return products.div_(norms).div_(norms[:, None]), norms, dead
