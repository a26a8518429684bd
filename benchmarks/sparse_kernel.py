"""Products of one 14336 × 4096 layer and one token: packed, beside torch's dense layer, a dense kernel of ours, and torch's CSR.

More copies of the layer than any cache holds take turns. Packing is timed beside a copy.
"""

import warnings
from functools import partial

import torch
from torch.nn.functional import linear

from benchmarks.alternate import alternate, arguments, publish
from lottery.sparse.kernel import SETS, Kernel, compiled, kernel

SHAPE, COPIES = (14336, 4096), 4
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SPARSITIES = (0.5, 0.7, 0.9)


def _by(one: Kernel, x: torch.Tensor, packed: list, at: int) -> torch.Tensor:
    return one.multiply(x, packed[at])


def compare(dtype: torch.dtype, sparsity: float, rounds: int) -> dict:
    torch.manual_seed(0)
    weights = [torch.randn(SHAPE).masked_fill_(torch.rand(SHAPE) < sparsity, 0).to(dtype) for _ in range(COPIES)]
    packed = [kernel().pack(weight) for weight in weights]
    x, turn = torch.randn(1, SHAPE[1]).to(dtype), 0
    contestants = {
        "sparse": lambda at: kernel().multiply(x, packed[at]),
        "torch": lambda at: linear(x, weights[at]),
        "dense": lambda at: kernel().multiply(x, weights[at]),
    }
    for name in SETS[: kernel().isa]:  # the others that this processor has
        contestants[name] = partial(_by, Kernel(compiled(), name), x, packed)
    if dtype == torch.float32:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that CSR is in beta
            rows = [weight.to_sparse_csr() for weight in weights]
        contestants["csr"] = lambda at: rows[at] @ x[0]

    def prepare() -> int:
        nonlocal turn
        turn += 1
        return turn % COPIES

    seconds, _, _ = alternate(contestants, prepare, torch.device("cpu"), rounds)
    packing, _, _ = alternate({"pack": kernel().pack, "copy": torch.clone}, lambda: weights[0], torch.device("cpu"), 5)
    others = [name for name in contestants if name not in ("sparse", "torch", "dense")]
    return {
        "dtype": str(dtype).removeprefix("torch."),
        "sparsity": sparsity,
        **{f"{name}_milliseconds": 1e3 * seconds[name] for name in ("sparse", "torch", "dense")},
        "times_faster_than_torch": seconds["torch"] / seconds["sparse"],
        "times_faster_than_own_dense": seconds["dense"] / seconds["sparse"],
        "read_gb_per_second_sparse": packed[0].nbytes / seconds["sparse"] / 1e9,
        "read_gb_per_second_dense": weights[0].nbytes / seconds["dense"] / 1e9,
        **{f"{name}_times_faster_than_torch": seconds["torch"] / seconds[name] for name in others},
        "stored_of_dense": packed[0].nbytes / weights[0].nbytes,
        "packing_in_copies": packing["pack"] / packing["copy"],
    }


if __name__ == "__main__":
    device, rounds = arguments(21)
    rows = [compare(dtype, sparsity, rounds) for dtype in DTYPES for sparsity in SPARSITIES]
    for dtype in dict.fromkeys(row["dtype"] for row in rows):
        own = [row for row in rows if row["dtype"] == dtype]
        publish(f"sparse_kernel-{dtype}", device, rounds, own, shape=SHAPE, instructions=kernel().instructions)
