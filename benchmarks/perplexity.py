"""Perplexity of a small real model on WikiText-2 in windows of 512 tokens: beside a plain loop over transformers, and bare forward passes.

Beside lm-evaluation-harness too, where it is installed (``make .venv/tasks``): from the text to bits per byte, with one sequence at a time,
as it does by default, and with as many as we take. The last comparison is a sweep: dense and three sparsities with divergences from the
dense model, beside four separate runs that each load, prune and score.
"""

import importlib.util
import logging
import math
from functools import partial
from pathlib import Path

import torch

from benchmarks.alternate import alternate, arguments, publish
from lottery.data.corpus import Corpus, corpus, windows
from lottery.evaluation.evaluate import evaluate
from lottery.evaluation.metrics import scores, window_sums
from lottery.models import loading
from lottery.models.checkpoints import Checkpoint
from lottery.pruning.prune import prune
from lottery.pruning.variants import DENSE, Variant

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
MODEL = Checkpoint("stories260k", "folder", str(DATA / "stories260K"))
WINDOW, BATCH, WINDOWS = 512, 8, 160
HARNESS_CHARACTERS = 200_000
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


def from_text(model, text: Corpus) -> float:
    cut = windows(loading.tokenizer(MODEL), text, WINDOW)
    scored, _ = evaluate(model, cut.tokens, BATCH)
    return scores(window_sums(*scored, cut.scored_bytes, cut.scored_words, WINDOW - 1))["bits_per_byte"]


def harness(model, text: Corpus, batch: int = 1) -> float:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    lm = HFLM(pretrained=model, tokenizer=loading.tokenizer(MODEL), batch_size=batch, max_length=WINDOW - 1)
    asked = Instance(request_type="loglikelihood_rolling", doc={}, arguments=(text.text,), idx=0)
    (found,) = lm.loglikelihood_rolling([asked], disable_tqdm=True)
    return -found / math.log(2) / len(text.text.encode())


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
    beside = {}
    if importlib.util.find_spec("lm_eval"):
        logging.disable(logging.WARNING)
        short = Corpus("wikitext-2-raw", (text.text[:HARNESS_CHARACTERS],))
        contestants = {"lottery": from_text, "lm_eval": harness, f"lm_eval_{BATCH}": partial(harness, batch=BATCH)}
        seconds, _, found = alternate(contestants, lambda: (load(device), short), device, rounds, spread=True)
        if not math.isclose(found["lottery"], found["lm_eval"], rel_tol=5e-3):  # it scores the first token of each window too
            raise AssertionError(f"lottery says {found['lottery']} bits per byte, lm_eval {found['lm_eval']}")
        beside = {f"{name}_seconds": taken for name, taken in seconds.items()} | {"bits_per_byte": found}
        beside |= {f"times_{name}": taken / seconds["lottery"] for name, taken in seconds.items() if name != "lottery"}
        print("beside lm_eval:", beside)
    seconds, _, found = alternate({"sweep": sweep, "separate": separate}, lambda: (device, tokens), device, rounds, spread=True)
    sums = [{"what": "dense + 3", **{f"{name}_seconds": taken for name, taken in seconds.items()}}]
    sums[0] |= {"times_separate": seconds["sweep"] / seconds["separate"]}
    publish("perplexity", device, rounds, rows, window=WINDOW, windows=WINDOWS, lm_eval=beside, sweep=sums[0])
    print(sums[0])
