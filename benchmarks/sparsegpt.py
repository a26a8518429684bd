"""SparseGPT on square linears beside a plain transcription of the paper's algorithm with its blocks of 128 columns."""

import torch

from benchmarks.alternate import arguments, beside_plain, publish
from lottery.pruning.activations import ActivationStats
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


if __name__ == "__main__":
    device, rounds = arguments(2)
    publish(
        "sparsegpt",
        device,
        rounds,
        [beside_plain(sparsegpt_, plainly, (size, size), SPARSITY, device, rounds) for size in (2048, 4096)],
        sparsity=SPARSITY,
    )
