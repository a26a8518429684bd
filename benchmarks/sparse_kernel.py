"""Products of one 14336 × 4096 layer and one token: packed, beside torch's dense layer, a dense kernel of ours, and torch's CSR.

Copies of the layer, more than any cache holds, are multiplied one after the other. Packing is timed beside a copy.
"""

import warnings

import torch
from torch.nn.functional import linear

from benchmarks.alternate import alternate, arguments, publish
from lottery.common.format import dtype_name
from lottery.sparse.kernel import SETS, Kernel, compiled, kernel

SHAPE, COPIES = (14336, 4096), 4
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SPARSITIES = (0.5, 0.7, 0.9)


def compare(dtype: torch.dtype, sparsity: float, rounds: int) -> dict:
    torch.manual_seed(0)
    weights = [torch.randn(SHAPE).masked_fill_(torch.rand(SHAPE) < sparsity, 0).to(dtype) for _ in range(COPIES)]
    packed, x = [kernel().pack(weight) for weight in weights], torch.randn(1, SHAPE[1]).to(dtype)
    ways = {"sparse": (kernel().multiply, packed), "torch": (linear, weights), "dense": (kernel().multiply, weights)}
    for name in SETS[: kernel().isa]:  # the others that this processor has
        ways[name] = Kernel(compiled(), name).multiply, packed
    if dtype == torch.float32:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that CSR is in beta
            ways["csr"] = (lambda x, weight: weight @ x[0]), [weight.to_sparse_csr() for weight in weights]
    # All copies in a row, so that no way pays for threads that fell asleep while another ran alone.
    contestants = {name: lambda x, way=way, of=of: [way(x, weight) for weight in of] for name, (way, of) in ways.items()}
    seconds, _, _ = alternate(contestants, lambda: x, torch.device("cpu"), rounds)
    seconds = {name: taken / COPIES for name, taken in seconds.items()}
    packing, _, _ = alternate({"pack": kernel().pack, "copy": torch.clone}, lambda: weights[0], torch.device("cpu"), 5)
    others = [name for name in ways if name not in ("sparse", "torch", "dense")]
    return {
        "dtype": dtype_name(dtype),
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
    _, rounds = arguments(21)
    rows = [compare(dtype, sparsity, rounds) for dtype in DTYPES for sparsity in SPARSITIES]
    for dtype in dict.fromkeys(row["dtype"] for row in rows):
        own = [row for row in rows if row["dtype"] == dtype]
        publish(f"sparse_kernel-{dtype}", torch.device("cpu"), rounds, own, shape=SHAPE, instructions=kernel().instructions)
