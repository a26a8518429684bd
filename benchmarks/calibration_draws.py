"""How much the draw of calibration text moves the perplexity that a method leaves of SmolLM2-135M at 60%: the same from several seeds.

`make fetch PROFILE=real-methods` first. The intervals of a report are over the windows that are scored; this is what they do not cover.
"""

import torch

from benchmarks.alternate import arguments, publish
from benchmarks.real_model import scored
from lottery.config.checkpoint import checkpoint
from lottery.config.profile import load_profile
from lottery.data.calibration import calibration
from lottery.data.corpus import corpus, windows
from lottery.models import loading
from lottery.pruning.prune import prune
from lottery.pruning.variants import Variant

PROFILE, MODEL, SPARSITY, SEEDS = "real-methods", "smollm2-135m-q4", 0.6, (0, 1, 2)
METHODS = ("wanda", "sparsegpt", "admm", "alps")


def compare(device: torch.device) -> list[dict]:
    profile = load_profile(PROFILE)
    found = checkpoint(profile.with_model(MODEL)).check()
    tokenizer = loading.tokenizer(found)
    tokens = windows(tokenizer, corpus(profile.text), profile.seq_len, profile.max_windows).tokens
    text = corpus(profile.calibration_text, "calibration_text")
    rows = []
    for seed in SEEDS:
        samples = calibration(tokenizer, text, profile.calibration_samples, profile.calibration_seq_len, seed).tokens
        row = {"seed": str(seed)}
        for method in METHODS:
            model = loading.load(found, loading.Plan(device, getattr(torch, profile.dtype), "benchmark"))
            prune(model, Variant(method, "uniform", "unstructured", SPARSITY), samples)
            row[method] = scored(model, tokens, 1)
            print(row, flush=True)
        rows.append(row)
    lowest, highest = ({method: of(row[method] for row in rows) for method in METHODS} for of in (min, max))
    return [*rows, {"seed": "highest over lowest", **{method: highest[method] / lowest[method] for method in METHODS}}]


if __name__ == "__main__":
    device, rounds = arguments(1)
    publish("calibration_draws", device, rounds, compare(device), model=MODEL, sparsity=SPARSITY)
