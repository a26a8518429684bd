"""The products XᵀX of a layer's inputs by panels of their lower half, beside one product of all of them."""

import torch

from benchmarks.alternate import alternate, arguments, publish
from lottery.pruning.activations import ActivationStats

TOKENS, SAMPLES = 2048, 4
WIDTHS = (576, 1536, 4864)  # of the inputs in SmolLM2-135M, and the widest in Qwen2.5-0.5B


def by_panels(x: torch.Tensor) -> torch.Tensor:
    inputs = ActivationStats(x.shape[1], x.device, gram=True)
    for _ in range(SAMPLES):
        inputs.add(x)
    return inputs.gram


def at_once(x: torch.Tensor) -> torch.Tensor:
    """What the authors of SparseGPT do, with the sum of squares that every method gets."""
    products, squares = torch.zeros(x.shape[1], x.shape[1], device=x.device), torch.zeros(x.shape[1], dtype=torch.float64, device=x.device)
    for _ in range(SAMPLES):
        squares += x.square().sum(0)
        products += x.T @ x
    return products


def compare(width: int, device: torch.device, rounds: int) -> dict:
    torch.manual_seed(0)
    x = torch.randn(TOKENS, width, device=device)
    seconds, held, results = alternate({"panels": by_panels, "at_once": at_once}, lambda: x, device, rounds)
    return {
        "width": str(width),
        **{f"{name}_seconds": taken for name, taken in seconds.items()},
        "times_faster": seconds["at_once"] / seconds["panels"],
        "relative_difference": float((results["panels"] - results["at_once"]).norm() / results["at_once"].norm()),
        **{f"extra_memory_{name}_mb": value / 1e6 for name, value in held.items()},
    }


if __name__ == "__main__":
    device, rounds = arguments(5)
    publish("products", device, rounds, [compare(width, device, rounds) for width in WIDTHS], tokens=TOKENS, samples=SAMPLES)
