"""What a few hundred steps give back to a small trained model that was pruned, its zeros kept: retrained on one half of its stories,
tested on the other. Beside them the dense model, trained on as long, to tell what is recovered from what is only learned."""

import torch

from benchmarks.alternate import arguments, publish
from benchmarks.real_model import MODEL, WINDOW, halves
from lottery.data.calibration import calibration
from lottery.data.corpus import windows
from lottery.evaluation.evaluate import evaluate
from lottery.evaluation.perplexity import exp
from lottery.models import loading
from lottery.models.blocks import count_zeros
from lottery.pruning.prune import prune
from lottery.pruning.variants import variants
from lottery.training.recovery import recover

METHODS, SPARSITIES = ["magnitude", "sparsegpt"], [0.5, 0.7]
STEPS, BATCH, RATE = 200, 4, 1e-3


def compare(variant, device: torch.device) -> dict:
    tokenizer, (seen, unseen) = loading.tokenizer(MODEL), halves()
    model = loading.load(MODEL, loading.Plan(device, torch.float32, "benchmark"))
    scored = windows(tokenizer, unseen, WINDOW)

    def perplexity() -> float:
        return exp(float(evaluate(model, scored.tokens, 8)[0].nll.sum()) / scored.tokens[:, 1:].size)

    if variant.sparsity:
        prune(model, variant, calibration(tokenizer, seen, 64, WINDOW, seed=0).tokens)
    before, sparsity = perplexity(), count_zeros(model).prunable
    recover(model, calibration(tokenizer, seen, STEPS * BATCH, WINDOW, seed=1).tokens, BATCH, RATE)
    zeros = count_zeros(model).prunable
    return {
        "variant": f"{variant.label} {variant.sparsity:g}" if variant.sparsity else "dense",
        "before": before,
        "recovered": perplexity(),
        "zeros": sparsity,
        "after": zeros,
    }


if __name__ == "__main__":
    device, _ = arguments()
    rows = [compare(variant, device) for variant in variants(METHODS, ["uniform"], ["unstructured"], SPARSITIES)]
    publish("recovery", device, 1, rows, steps=STEPS, batch=BATCH, rate=RATE, window=WINDOW)
