"""Contestants that take turns in one process: medians of their seconds, and the most memory that each held beyond what was there."""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from lottery.common.files import atomic_write
from lottery.experiments.provenance import commit_of
from lottery.models import memory
from lottery.models.devices import describe
from lottery.pruning.activations import ActivationStats
from lottery.pruning.layer_spec import LayerSpec
from lottery.report.markdown import table


def alternate(
    contestants: dict[str, Callable], prepare: Callable, device: torch.device, rounds: int, *, spread: bool = False
) -> tuple[dict, dict, dict]:
    """Runs each contestant once a round on what ``prepare()`` gives it, which is not timed; the first round is a warm-up.

    With ``spread`` that is several arguments.

    **Returns** median seconds, bytes held at most, and the results of the last round, all by name.
    """
    seconds, held, results = {name: [] for name in contestants}, dict.fromkeys(contestants, 0), {}
    for round_ in range(rounds + 1):
        for name, contestant in contestants.items():
            results.pop(name, None)
            given = prepare()
            memory.reset_peak(device)
            before = memory.peak(device)
            started = time.perf_counter()
            results[name] = contestant(*given) if spread else contestant(given)
            if device.type == "cuda":
                torch.cuda.synchronize()
            taken = time.perf_counter() - started
            if round_:
                seconds[name].append(taken)
                held[name] = max(held[name], memory.peak(device) - before)
    return {name: statistics.median(values) for name, values in seconds.items()}, held, results


# What is measured, read once before it is; the results themselves are no part of it.
COMMIT, DIRTY = commit_of(Path(__file__).parents[1], ":!benchmarks/results")


def beside_plain(method: Callable, plainly: Callable, shape: tuple[int, int], sparsity: float, device: torch.device, rounds: int) -> dict:
    """Times a method on one layer with correlated inputs beside a plain transcription of its paper; both get the weight and all products.

    ``method`` prunes a weight [outputs, inputs] in place, given its ``LayerSpec`` and the inputs; ``plainly`` returns a pruned one, given
    weight and inputs.
    """
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
        method(given[0], LayerSpec("layer", sparsity), given[1])
        return given[0]

    seconds, held, results = alternate({"lottery": ours, "plain": lambda given: plainly(*given)}, prepare, device, rounds)
    error = {name: float((x @ (result - weight).T).norm() / (x @ weight.T).norm()) for name, result in results.items()}
    return {
        "size": f"{outputs} × {size}",
        **{f"{name}_seconds": taken for name, taken in seconds.items()},
        "times_faster": seconds["plain"] / seconds["lottery"],
        "masks_differ": float(((results["lottery"] == 0) != (results["plain"] == 0)).double().mean()),
        "relative_difference": float((results["lottery"] - results["plain"]).norm() / results["plain"].norm()),
        **{f"output_error_{name}": value for name, value in error.items()},
        **{f"extra_memory_{name}_mb": value / 1e6 for name, value in held.items()},
    }


def arguments(rounds: int = 3) -> tuple[torch.device, int]:
    """The device and the number of rounds that a benchmark is called with."""
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    parser.add_argument("--rounds", type=int, default=rounds)
    given = parser.parse_args()
    return torch.device(given.device), given.rounds


def publish(name: str, device: torch.device, rounds: int, rows: list[dict], **facts) -> None:
    """Prints a table of the rows and writes them, with where they come from, to ``benchmarks/results/<name>-<device>.json``; from a
    committed tree only, since else nobody could tell what was measured."""
    where = {"machine": describe(device), "torch": torch.__version__, "threads": torch.get_num_threads(), "commit": COMMIT}
    target = Path(__file__).parent / "results" / f"{name}-{device.type}.json"
    print(table([{key: value if isinstance(value, str) else f"{value:.3g}" for key, value in row.items()} for row in rows]))
    if DIRTY or COMMIT == "unknown":
        print(f"{where['machine']}; not written to {target.name}: the tree has changes that are not committed\n", flush=True)
        return
    atomic_write(target, json.dumps({**where, "rounds": rounds, **facts, "rows": rows}, indent=1) + "\n")
    print(f"{where['machine']}, written to benchmarks/results/{target.name}\n", flush=True)
