"""Perplexity of a small real model on WikiText-2 in windows of 512 tokens: beside a plain loop over transformers, and bare forward passes.

The second row is a sweep: dense and three sparsities with divergences from the dense model, beside four separate runs that each load,
prune and score.
"""

import math
from pathlib import Path

import torch

from benchmarks.alternate import alternate, arguments, publish
from lottery import loading
from lottery.checkpoints import Checkpoint
from lottery.corpus import corpus, windows
from lottery.evaluation import evaluate
from lottery.methods import DENSE, Variant
from lottery.pruning import prune

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
MODEL = Checkpoint("stories260k", "folder", str(DATA / "stories260K"))
WINDOW, BATCH, WINDOWS = 512, 8, 160
VARIANTS = [DENSE, *(Variant("magnitude", "uniform", "unstructured", share) for share in (0.5, 0.7, 0.9))]


def load(device: torch.device):
    return loading.load(MODEL, loading.Plan(device, torch.float32, "for the benchmark"))


@torch.inference_mode()
def loop(model, tokens: torch.Tensor) -> float:
    """As scripts do it: the model's own loss of each batch of windows."""
    losses = [float(model(input_ids=batch, labels=batch, use_cache=False).loss) * len(batch) for batch in tokens.split(BATCH)]
    return math.exp(sum(losses) / len(tokens))


@torch.inference_mode()
def bare(model, tokens: torch.Tensor) -> float:
    for batch in tokens.split(BATCH):
        model(input_ids=batch, use_cache=False)
    return 0.0


def ours(model, tokens: torch.Tensor) -> float:
    return math.exp(float(evaluate(model, tokens.numpy(), BATCH)[0].nll.sum()) / tokens[:, 1:].numel())


def sweep(device: torch.device, tokens: torch.Tensor) -> float:
    """The dense model's states are kept, and everything is compared with them."""
    states, total = None, 0.0
    for variant in VARIANTS:
        model = load(device)
        prune(model, variant)
        scored, kept = evaluate(model, tokens.numpy(), BATCH, states, keep=states is None)
        states, total = (kept if states is None else states), total + float(scored.nll.sum())
    return total


def separate(device: torch.device, tokens: torch.Tensor) -> float:
    """Four runs by themselves: loss only, no divergence."""
    total = 0.0
    for variant in VARIANTS:
        model = load(device)
        prune(model, variant)
        total += math.log(loop(model, tokens)) * tokens[:, 1:].numel()
    return total


if __name__ == "__main__":
    device, rounds = arguments(rounds=5)
    tokenizer, text = loading.tokenizer(MODEL), corpus(str(DATA / "wikitext-2-raw" / "wiki.test.raw"))
    tokens = torch.from_numpy(windows(tokenizer, text, WINDOW, WINDOWS).tokens).to(device)
    seconds, _, found = alternate(
        {"lottery": ours, "loop": loop, "bare": bare}, lambda: (load(device), tokens), device, rounds, spread=True
    )
    if not math.isclose(found["lottery"], found["loop"], rel_tol=1e-4):
        raise AssertionError(f"lottery says {found['lottery']}, the loop {found['loop']}")
    rows = [{"what": "dense", **{f"{name}_seconds": taken for name, taken in seconds.items()}, "perplexity": found["lottery"]}]
    rows[0] |= {"times_the_loop": seconds["lottery"] / seconds["loop"], "times_bare": seconds["lottery"] / seconds["bare"]}
    seconds, _, found = alternate({"sweep": sweep, "separate": separate}, lambda: (device, tokens), device, rounds, spread=True)
    sums = [{"what": "dense + 3", **{f"{name}_seconds": taken for name, taken in seconds.items()}}]
    sums[0] |= {"times_separate": seconds["sweep"] / seconds["separate"]}
    publish("perplexity", device, rounds, rows, window=WINDOW, windows=WINDOWS, sweep=sums[0])
    print(sums[0])
