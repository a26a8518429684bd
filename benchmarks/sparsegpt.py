"""SparseGPT on square linears beside a plain transcription of the paper's algorithm with its blocks of 128 columns."""

import torch

from benchmarks.alternate import alternate, arguments, publish
from lottery.pruning.activations import ActivationStats
from lottery.pruning.layer_spec import LayerSpec
from lottery.pruning.methods.sparsegpt import BLOCK, sparsegpt_

SPARSITY = 0.5


def plainly(weight: torch.Tensor, inputs: ActivationStats) -> torch.Tensor:
    """Algorithm 1 of arXiv 2301.00774 with lazy updates: choose in a block, work off its columns, then spread its errors."""
    weight, hessian = weight.float(), inputs.gram * (2 / inputs.tokens)
    dead = hessian.diagonal() == 0
    hessian[dead, dead] = 1
    weight[:, dead] = 0
    hessian.diagonal().add_(0.01 * hessian.diagonal().mean())
    upper = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(hessian)), upper=True)
    for start in range(0, weight.shape[1], BLOCK):
        stop = min(start + BLOCK, weight.shape[1])
        block, own = weight[:, start:stop].clone(), upper[start:stop, start:stop]
        score = block**2 / own.diagonal() ** 2
        gone = score <= score.flatten().sort().values[round(SPARSITY * score.numel()) - 1]
        errors = torch.zeros_like(block)
        for j in range(stop - start):
            kept = torch.where(gone[:, j], 0, block[:, j])
            errors[:, j] = (block[:, j] - kept) / own[j, j]
            block[:, j:] -= errors[:, j, None] * own[j, j:]
            block[:, j] = kept
        weight[:, start:stop] = block
        weight[:, stop:] -= errors @ upper[start:stop, stop:]
    return weight


def compare(size: int, device: torch.device, rounds: int) -> dict:
    torch.manual_seed(0)
    weight = torch.randn(size, size, device=device)
    x = torch.randn(2 * size, size // 2, device=device) @ torch.randn(size // 2, size, device=device) / 30 + torch.randn(
        2 * size, size, device=device
    )

    def prepare() -> tuple[torch.Tensor, ActivationStats]:
        inputs = ActivationStats(size, device, gram=True)
        inputs.add(x)
        return weight.clone(), inputs

    def ours(given) -> torch.Tensor:
        sparsegpt_(given[0], LayerSpec("layer", SPARSITY), given[1])
        return given[0]

    seconds, held, results = alternate({"lottery": ours, "plain": lambda given: plainly(*given)}, prepare, device, rounds)
    error = {name: float((x @ (result - weight).T).norm() / (x @ weight.T).norm()) for name, result in results.items()}
    return {
        "size": f"{size} × {size}",
        **{f"{name}_seconds": taken for name, taken in seconds.items()},
        "times_faster": seconds["plain"] / seconds["lottery"],
        "masks_differ": float(((results["lottery"] == 0) != (results["plain"] == 0)).double().mean()),
        "relative_difference": float((results["lottery"] - results["plain"]).norm() / results["plain"].norm()),
        **{f"output_error_{name}": value for name, value in error.items()},
        **{f"extra_memory_{name}_mb": value / 1e6 for name, value in held.items()},
    }


if __name__ == "__main__":
    device, rounds = arguments(2)
    publish("sparsegpt", device, rounds, [compare(size, device, rounds) for size in (2048, 4096)], sparsity=SPARSITY)
