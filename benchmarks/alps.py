"""ALPS on layers with many and with few outputs beside a plain transcription, which takes eigenvalues and an inverse at each penalty."""

import torch

from benchmarks.alternate import arguments, beside_plain, publish
from lottery.pruning.activations import ActivationStats
from lottery.pruning.methods.alps import alps_

SPARSITY = 0.7
SHAPES = [(576, 576), (1536, 576), (576, 1536), (256, 1408), (448, 2432)]  # SmolLM2-135M's; of Qwen's 896 × 4864 a third and a half


def plainly(weight: torch.Tensor, inputs: ActivationStats) -> torch.Tensor:
    """Algorithms 1 and 2 of arXiv 2406.07831 with the authors' constants, ρ that has just changed inverted anew."""
    gram = inputs.gram.double()
    gram.diagonal().add_(0.01 * gram.diagonal().mean())
    norms = gram.diagonal().sqrt() + 1e-8
    gram = gram / norms / norms[:, None]
    values, vectors = (found.float() for found in torch.linalg.eigh(gram))
    gram, norms = gram.float(), norms.float()
    stay = weight.numel() - round(SPARSITY * weight.numel())

    def largest(scores: torch.Tensor) -> torch.Tensor:
        mask = torch.zeros(scores.numel(), dtype=torch.bool, device=scores.device)
        mask[scores.abs().flatten().topk(stay).indices] = True
        return mask.view_as(scores)

    dense = weight * norms
    target, penalty, raised = dense @ gram, 0.1, False
    mask = largest(dense)
    split, dual, before = dense * mask, torch.zeros_like(dense), mask
    inverse = (vectors / (values + penalty)) @ vectors.T
    for iteration in range(1, 301):
        current = (target - dual + penalty * split) @ inverse
        moved = current + dual / penalty
        split = moved * largest(moved)
        dual = dual + penalty * (current - split)
        if iteration % 3:
            continue
        mask = split != 0
        changed, before = float((mask != before).sum()) / stay, mask
        if (changed == 0 and raised) or (iteration >= 30 and changed < 3e-4):
            break
        if changed > 0.005:
            penalty, raised = penalty * (1.3 if changed > 0.1 else 1.2), True
        else:
            assert raised, "it began so high that nothing moved, which these inputs do not do"
            penalty *= 1.1
        inverse = (vectors / (values + penalty)) @ vectors.T
    mask = largest(current)
    kept = current * mask
    residual = (target - kept @ gram) * mask
    direction = residual
    for _ in range(10):
        step = direction @ gram
        share = residual.square().sum(1, keepdim=True) / (direction * step).sum(1, keepdim=True).clamp_min(1e-30)
        kept = kept + share * direction
        following = (residual - share * step) * mask
        turned = following.square().sum(1, keepdim=True) / residual.square().sum(1, keepdim=True).clamp_min(1e-30)
        residual, direction = following, following + turned * direction
    return kept / norms


if __name__ == "__main__":
    device, rounds = arguments(3)
    publish("alps", device, rounds, [beside_plain(alps_, plainly, shape, SPARSITY, device, rounds) for shape in SHAPES], sparsity=SPARSITY)
