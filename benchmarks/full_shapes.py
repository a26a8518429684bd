"""The study itself on the five models' true shapes with random weights: load, prune, perplexity of a few windows, generation.

On a GPU each shape runs in float16 under two caps of what torch may allocate, near what a T4 and a V100 leave it: that shows whether a
study fits, and no more, since the speed is this GPU's. Without one, Qwen2.5-0.5B's shape runs on the CPU. Each run is a process of its
own, which takes a folder with a checkpoint and leaves records behind. The checkpoint was just written: it is read from the page cache.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from benchmarks.alternate import publish
from benchmarks.shapes import SHAPES, write
from lottery.config.profile import validated
from lottery.experiments.study import Study

WINDOWS, SPARSITIES = 2, [0.5, 0.9]
CAPS = [14.3, 31.2]  # GiB: of a T4's 14.75 and a V100's 31.7 what is left beside the context


def one(model: str, cap: float | None) -> list[dict]:
    """Runs the study of the checkpoint in the working directory. **Returns** a row a trial."""
    if cap:
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, cap * 2**30 / total))
    cuda = torch.cuda.is_available()
    profile = validated(
        {
            "profile": f"{model}-{cap or 'none'}", "checkpoints": {model: model}, "model": model, "text": "letters.txt",
            "methods": ["magnitude"], "sparsities": SPARSITIES, "seq_len": 2048, "max_windows": WINDOWS, "prompts": 1, "prompt_words": 30,
            "new_tokens": 50, "repeats": 5 if cuda else 3, "dtype": "float16" if cuda else "auto",
        }
    )  # fmt: skip
    study = Study(profile)
    study.sweep()
    rows = []
    for record in study.records:
        result, where = record.result, record.provenance
        rows.append(
            {
                "model": model, "cap_gib": str(cap or "none"), "plan": where.memory_plan, "dtype": where.dtype,
                "sparsity": record.request.sparsity,
                "trial_seconds": (where.finished - where.started).total_seconds(), "pruning_seconds": result.pruning_seconds,
                "tokens_per_second": statistics.median(result.speed.tokens_per_second), "generates_on": result.speed.device.split(",")[0],
                "weights_gib": result.memory.weights / 2**30, "scoring_gib": result.memory.evaluation_peak / 2**30,
                "writing_gib": result.memory.generation_peak / 2**30,
            }
        )  # fmt: skip
    print(study.plan.memory_reason, file=sys.stderr)
    return rows


def letters(count: int) -> str:
    """Words of one letter, since random weights know no other: rows of 100."""
    draw = random.Random(0)
    return "\n\n".join(" ".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=100)) for _ in range(count // 100))


def all_of_them(models: list[str]) -> list[dict]:
    found, environment = [], {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    for model in models:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "params").mkdir()
            (folder / "notebooks").mkdir()  # with both, this is a project's folder, and outputs land here
            (folder / "letters.txt").write_text(letters(5000))
            write(model, folder / model, torch.float16)
            for cap in CAPS if torch.cuda.is_available() else [0]:
                call = [sys.executable, "-m", "benchmarks.full_shapes", "--one", model, "--cap", str(cap)]
                done = subprocess.run(call, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=True)
                found += json.loads(done.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--one", choices=SHAPES)
    parser.add_argument("--cap", type=float, default=0, help="GiB of the GPU's memory, 0 for all of it")
    parser.add_argument("--models", nargs="+", choices=SHAPES, default=list(SHAPES) if torch.cuda.is_available() else ["qwen2.5-0.5b"])
    given = parser.parse_args()
    if given.one:
        print(json.dumps(one(given.one, given.cap or None)))
    else:
        publish("full_shapes", torch.device("cuda" if torch.cuda.is_available() else "cpu"), 1, all_of_them(given.models), windows=WINDOWS)
