"""ALPS (Meng et al. 2024, arXiv 2406.07831): the method of multipliers with a rising penalty, then conjugate gradients on what stays."""

import torch

from lottery.pruning.activations import ActivationStats
from lottery.pruning.layer_spec import LayerSpec
from lottery.pruning.registry import method
from lottery.pruning.selection import kth_near, lowest, not_finite

ITERATIONS = 300  # at most
EVERY = 3  # iterations between two looks at how the support has changed
PENALTY = 0.1  # ρ to begin with
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

    Inputs are scaled to norm 1, and weights B₀ to match. With H = QΛQᵀ the scaled and damped products, V = 0 and D the largest of B₀, it
    repeats: B = Q(Λ + ρ)⁻¹Qᵀ(HB₀ - V + ρD), D is the largest of B + V/ρ, V grows by ρ(B - D). The largest are those of the whole layer, or
    of each group with N:M. ρ rises by how much the support still changes, until it hardly does, or for 300 iterations; if nothing moves at
    first, ρ falls to a fifth and it begins again. At last the largest of B stay, and are solved for by conjugate gradients that begin at B.
    The eigenvalues are computed in float64, as the authors do. Inputs that are always 0 lose their weights.

    Args:
        weight: Weights [out, in].
        spec: What to prune.
        inputs: Statistics of the layer's inputs, with products.
        dtype: The dtype to iterate in; the result is cast back to the weight's own.

    Raises:
        LotteryError: The pattern does not fit, as in ``LayerSpec.check``, or a weight is not finite.
    """
    spec.check(weight)
    if not torch.isfinite(weight).all():
        raise not_finite(spec.name)
    products, values, vectors, norms, dead = inputs.shared("alps", lambda stats: _scaled(stats, dtype))
    dense = (weight.to(dtype) * norms).masked_fill_(dead, 0)
    target = dense @ products
    last = _settled(dense, target, values, vectors, spec)
    gone, _ = _gone(last, spec)
    kept = _solved(last.masked_fill_(gone, 0), target, products, gone)
    weight.copy_(kept / norms)


def _settled(dense: torch.Tensor, target: torch.Tensor, values: torch.Tensor, vectors: torch.Tensor, spec: LayerSpec) -> torch.Tensor:
    """Return the B [out, in] of the last iteration."""
    penalty, raised, inverted = PENALTY, False, None
    narrow = (
        3 * dense.shape[0] < dense.shape[1]
    )  # two products of [out, in] in each iteration take less time than the inverse in every third
    gone, threshold = _gone(dense, spec)
    split = dense.masked_fill(gone, 0)
    dual, before = torch.zeros_like(dense), split != 0
    kept = max(1, int(before.sum()))
    for iteration in range(1, ITERATIONS + 1):
        current = target - dual + penalty * split
        if narrow:
            current = (current @ vectors).div_(values + penalty) @ vectors.T
        else:
            if penalty != inverted:
                inverse, inverted = (vectors / (values + penalty)) @ vectors.T, penalty
            current = current @ inverse
        moved = current + dual / penalty
        gone, threshold = _gone(moved, spec, threshold)
        split = moved.masked_fill(gone, 0)
        dual += penalty * (current - split)
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
            penalty /= 5
            if changed:
                split, dual = dense.masked_fill(_gone(dense, spec)[0], 0), torch.zeros_like(dense)
                before = split != 0
    return current


def _solved(kept: torch.Tensor, target: torch.Tensor, products: torch.Tensor, gone: torch.Tensor) -> torch.Tensor:
    """Refine the weights that stay by conjugate gradients, each row for itself."""
    residual = (target - kept @ products).masked_fill_(gone, 0)
    direction, length = residual, residual.square().sum(1, keepdim=True)
    for _ in range(REFINEMENT):
        step = direction @ products
        share = length / (direction * step).sum(1, keepdim=True).clamp_min(torch.finfo(length.dtype).tiny)
        kept = kept + share * direction
        residual = residual - share * step.masked_fill_(gone, 0)
        longer, length = length, residual.square().sum(1, keepdim=True)
        direction = residual + length / longer.clamp_min(torch.finfo(length.dtype).tiny) * direction
    return kept


def _gone(scores: torch.Tensor, spec: LayerSpec, near: float | None = None) -> tuple[torch.Tensor, float | None]:
    """Return which weights are not among the largest, of the whole layer or of each group of N:M, and the largest score of these.

    ``near`` is a guess at that score: the one of the last iteration.
    """
    if spec.pattern:
        return lowest(scores.reshape(-1, spec.pattern.group), spec.pattern.zeros).view_as(scores), None
    size, count = scores.abs(), round(spec.sparsity * scores.numel())
    threshold = kth_near(size.view(-1), count, near) if count else -1.0
    gone = size <= threshold
    return (
        gone if int(torch.count_nonzero(gone)) == count else lowest(scores.reshape(1, -1), count).view_as(scores)
    ), threshold  # ties: the first ones


def _scaled(inputs: ActivationStats, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    """Return the damped products of inputs scaled to norm 1, their eigenvalues and eigenvectors, the norms, and which are always 0."""
    products = inputs.gram.to(torch.float64, copy=True)
    dead = products.diagonal() == 0
    products.diagonal().add_(DAMPING * products.diagonal().mean())
    norms = products.diagonal().sqrt() + 1e-8
    products = products / norms / norms[:, None]
    values, vectors = torch.linalg.eigh(products)
    return products.to(dtype), values.to(dtype), vectors.to(dtype), norms.to(dtype), dead
