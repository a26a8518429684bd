"""Perplexity of a small trained model by every method, calibrated on one half of its stories and tested on the other.

Looks for the folder of shared data beside the project. What the field reports is expected here too: random far above magnitude, then
Wanda, then SparseGPT.
"""

from pathlib import Path

import torch

from benchmarks.alternate import arguments, publish
from lottery.data.calibration import calibration
from lottery.data.corpus import Corpus, corpus, windows
from lottery.evaluation.bootstrap import exp
from lottery.evaluation.evaluate import evaluate
from lottery.models import loading
from lottery.models.checkpoints import Checkpoint
from lottery.pruning.catalogue import ALLOCATIONS, METHODS
from lottery.pruning.prune import prune
from lottery.pruning.variants import Variant, variants

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
MODEL = Checkpoint("stories260k", "folder", str(DATA / "stories260K"))
SPARSITIES, WINDOW, SAMPLES = [0.5, 0.6, 0.7], 512, 64


def halves() -> tuple[Corpus, Corpus]:
    """Stories to calibrate on, and others to test on."""
    rows = corpus(str(DATA / "tinystories" / "stories.jsonl")).rows
    return Corpus("stories, even rows", rows[::2]), Corpus("stories, odd rows", rows[1::2])


def perplexity(variant: Variant, device: torch.device, max_windows: int | None = None) -> float:
    """Of the model pruned in one way, on the test half."""
    tokenizer, (seen, unseen) = loading.tokenizer(MODEL), halves()
    model = loading.load(MODEL, loading.Plan(device, torch.float32, "benchmark"))
    prune(model, variant, calibration(tokenizer, seen, SAMPLES, WINDOW, seed=0).tokens)
    return scored(model, windows(tokenizer, unseen, WINDOW, max_windows).tokens)


def scored(model: torch.nn.Module, tokens, batch: int = 8) -> float:
    """A model's perplexity on windows of tokens."""
    return exp(float(evaluate(model, tokens, batch)[0].nll.sum()) / tokens[:, 1:].size)


if __name__ == "__main__":
    device, _ = arguments()
    plain = variants(list(METHODS), ["uniform"], ["unstructured", "2:4"], SPARSITIES)
    uneven = [name for name in ALLOCATIONS if name != "uniform"]
    allocated = variants(["magnitude", "wanda", "sparsegpt"], uneven, ["unstructured"], SPARSITIES)[1:]
    rows = {}
    for variant in [*plain, *allocated]:
        name = variant.label.removesuffix(" 2:4")
        column = "2:4" if variant.pattern == "2:4" else f"{variant.sparsity:g}"
        rows.setdefault(name, {"method": name})[column] = perplexity(variant, device)
    dense = rows.pop("dense")["0"]
    columns = ["method", *[f"{s:g}" for s in SPARSITIES], "2:4"]
    table = [{column: row.get(column, "") for column in columns} for row in rows.values()]
    publish("real_model", device, 1, table, dense=dense, window=WINDOW, samples=SAMPLES)
    print(f"dense {dense:.3f}")
