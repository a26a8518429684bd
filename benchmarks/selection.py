"""Magnitude pruning of one 4096 × 14336 layer beside torch.nn.utils.prune, and beside a copy of the layer as the floor.

``python benchmarks/selection.py [--device cpu|cuda] [--rounds N]``: the three take turns in one process, medians are compared, and a
table is printed and written to ``benchmarks/results/``.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from torch import nn
from torch.nn.utils import prune as torch_prune

from lottery import memory
from lottery.loading import describe
from lottery.provenance import commit_now
from lottery.pruning import zero_smallest_
from lottery.records import write_whole
from lottery.show import table

SHAPE, SPARSITY = (4096, 14336), 0.5
DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def by_torch(weight: torch.Tensor) -> torch.Tensor:
    layer = nn.Module()
    layer.register_parameter("weight", nn.Parameter(weight, requires_grad=False))
    torch_prune.l1_unstructured(layer, "weight", SPARSITY)
    torch_prune.remove(layer, "weight")
    return layer.weight.data


def by_lottery(weight: torch.Tensor) -> torch.Tensor:
    zero_smallest_(weight, round(SPARSITY * weight.numel()))
    return weight


CONTESTANTS = {"lottery": by_lottery, "torch": by_torch, "copy": torch.clone}


def measured(prune, weight: torch.Tensor) -> tuple[float, int, torch.Tensor]:
    """Seconds, bytes held at most beyond what was there before, and the result."""
    device = weight.device
    memory.reset_peak(device)
    before, _ = memory.peak(device)
    started = time.perf_counter()
    result = prune(weight)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started, memory.peak(device)[0] - before, result


def compare(dtype: torch.dtype, device: torch.device, rounds: int) -> dict:
    torch.manual_seed(0)
    weight = torch.randn(SHAPE).to(device, dtype)
    seconds = {name: [] for name in CONTESTANTS}
    extra = dict.fromkeys(CONTESTANTS, 0)
    for round_ in range(rounds + 1):  # the first is a warm-up
        results = {}
        for name, prune in CONTESTANTS.items():
            taken, held, results[name] = measured(prune, weight.clone())
            if round_:
                seconds[name].append(taken)
                extra[name] = max(extra[name], held)
        zeros = {int((results[name] == 0).sum()) for name in ("lottery", "torch")}
        if zeros != {round(SPARSITY * weight.numel())}:
            raise AssertionError(f"{dtype}: the contestants left {zeros} zeros")
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    layer = weight.numel() * weight.element_size()
    return {
        "dtype": str(dtype).removeprefix("torch."),
        **{f"{name}_seconds": middle[name] for name in CONTESTANTS},
        "times_faster_than_torch": middle["torch"] / middle["lottery"],
        "times_a_copy": middle["lottery"] / middle["copy"],
        "extra_memory_of_layer": extra["lottery"] / layer,
        "extra_memory_of_layer_torch": extra["torch"] / layer,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    rows = []
    for dtype in DTYPES:
        rows.append(compare(dtype, device, arguments.rounds))
        print(f"{rows[-1]['dtype']}: {rows[-1]['times_faster_than_torch']:.0f} times as fast as torch", flush=True)
    commit, dirty = commit_now()
    facts = {"machine": describe(device), "torch": torch.__version__, "commit": commit, "dirty": dirty, "threads": torch.get_num_threads()}
    facts |= {"shape": SHAPE, "sparsity": SPARSITY, "rounds": arguments.rounds, "rows": rows}
    target = Path(__file__).parent / "results" / f"selection-{device.type}.json"
    write_whole(target, json.dumps(facts, indent=1) + "\n")
    print(table([{key: value if isinstance(value, str) else f"{value:.3g}" for key, value in row.items()} for row in rows]))
    print(f"{facts['machine']}, written to {target}")


if __name__ == "__main__":
    main()
