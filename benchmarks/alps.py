"""ALPS on layers with many and with few outputs beside a plain transcription, which takes eigenvalues and an inverse at each penalty."""

import torch

from benchmarks.alternate import alternate, arguments, publish
from lottery.pruning.activations import ActivationStats
from lottery.pruning.layer_spec import LayerSpec
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


def compare(shape: tuple[int, int], device: torch.device, rounds: int) -> dict:
    torch.manual_seed(0)
    outputs, size = shape
    weight = torch.randn(outputs, size, device=device)
    x = torch.randn(2 * size, size // 2, device=device) @ torch.randn(size // 2, size, device=device) / 30
    x += torch.randn(2 * size, size, device=device)

    def prepare() -> tuple[torch.Tensor, ActivationStats]:
        inputs = ActivationStats(size, device, gram=True)
        inputs.add(x)
        return weight.clone(), inputs

    def ours(given) -> torch.Tensor:
        alps_(given[0], LayerSpec("layer", SPARSITY), given[1])
        return given[0]

    seconds, held, results = alternate({"lottery": ours, "plain": lambda given: plainly(*given)}, prepare, device, rounds)
    error = {name: float((x @ (result - weight).T).norm() / (x @ weight.T).norm()) for name, result in results.items()}
    return {
        "size": f"{outputs} × {size}",
        **{f"{name}_seconds": taken for name, taken in seconds.items()},
        "times_faster": seconds["plain"] / seconds["lottery"],
        "masks_differ": float(((results["lottery"] == 0) != (results["plain"] == 0)).double().mean()),
        **{f"output_error_{name}": value for name, value in error.items()},
        **{f"extra_memory_{name}_mb": value / 1e6 for name, value in held.items()},
    }


if __name__ == "__main__":
    device, rounds = arguments(3)
    publish("alps", device, rounds, [compare(shape, device, rounds) for shape in SHAPES], sparsity=SPARSITY)
