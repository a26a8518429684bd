"""Dense and three sparsities of Qwen2.5-0.5B's true shape with random weights: one streamed walk beside a resident sweep.

Each in a process of its own, so that the peak of its memory is its own.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.alternate import publish
from benchmarks.shapes import write
from lottery import loading, memory
from lottery.checkpoints import Checkpoint
from lottery.evaluation import evaluate
from lottery.methods import DENSE, Variant
from lottery.pruning import prune
from lottery.streaming import evaluate_streamed
from lottery.weights import Weights

MODEL, WINDOW = "qwen2.5-0.5b", 2048
VARIANTS = [DENSE, *(Variant("magnitude", "uniform", "unstructured", share) for share in (0.5, 0.7, 0.9))]
PLAN = loading.Plan(torch.device("cpu"), torch.float32, "for the benchmark")


def resident(checkpoint: Checkpoint, tokens) -> list[float]:
    """Each variant loaded, pruned and scored by itself."""
    dense, found = None, []
    for variant in VARIANTS:
        model = loading.load(checkpoint, PLAN)
        prune(model, variant)
        scores, kept = evaluate(model, tokens, dense=dense, keep=dense is None)
        dense = kept if dense is None else dense
        found.append(float(scores.nll.sum()))
        del model
    return found


def streamed(checkpoint: Checkpoint, tokens) -> list[float]:
    model = loading.skeleton(checkpoint, PLAN.dtype)
    results = evaluate_streamed(model, Weights(checkpoint, model), VARIANTS, tokens, PLAN.device)
    return [float(result.nll.sum()) for result in results]


def one(how: str, folder: Path, windows: int) -> None:
    """What a process of its own does: scores, and prints what it took."""
    tokens = torch.randint(26, (windows, WINDOW), generator=torch.Generator().manual_seed(0)).numpy()
    idle = memory.peak(PLAN.device)[0]
    started = time.perf_counter()
    found = {"resident": resident, "streamed": streamed}[how](Checkpoint(MODEL, "folder", str(folder)), tokens)
    seconds = time.perf_counter() - started
    print(json.dumps({"seconds": seconds, "peak": memory.peak(PLAN.device)[0], "idle": idle, "nll": found}))


def compare(windows: int, rounds: int) -> list[dict]:
    found = {"resident": [], "streamed": []}
    with tempfile.TemporaryDirectory() as folder:
        write(MODEL, Path(folder))
        for _ in range(rounds):
            for how, runs in found.items():
                call = [sys.executable, "-m", "benchmarks.streaming", "--one", how, "--folder", folder, "--windows", str(windows)]
                runs.append(json.loads(subprocess.run(call, capture_output=True, text=True, check=True).stdout.splitlines()[-1]))
    if len({json.dumps(run["nll"]) for runs in found.values() for run in runs}) != 1:
        raise AssertionError("streamed and resident differ")
    rows = []
    for how, runs in found.items():
        seconds, peak = (statistics.median(run[key] for run in runs) for key in ("seconds", "peak"))
        rows.append({"how": how, "seconds": seconds, "peak_gib": peak / 2**30, "idle_gib": runs[0]["idle"] / 2**30})
    for row in rows:
        row |= {"times_resident": row["seconds"] / rows[0]["seconds"], "times_less_memory": rows[0]["peak_gib"] / row["peak_gib"]}
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--one", choices=["resident", "streamed"])
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--windows", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=1)
    given = parser.parse_args()
    if given.one:
        one(given.one, given.folder, given.windows)
    else:
        rows = compare(given.windows, given.rounds)
        publish("streaming", PLAN.device, given.rounds, rows, model=MODEL, window=WINDOW, windows=given.windows, dtype="float32")
