"""What retraining gives back to a small trained model that was pruned: with its zeros kept, and by ELSA from there or from the dense model.

Each learns from the text, or from the dense model's predictions, on one half of some stories, and is tested on the other half. Beside them
stands the dense model, retrained on as much: what is recovered has to be told from what is only learned, or overfitted. All at several
learning rates.
"""

import copy

import torch

from benchmarks.alternate import arguments, publish
from benchmarks.real_model import MODEL, WINDOW, halves, scored
from lottery.data.calibration import calibration, retraining
from lottery.data.corpus import windows
from lottery.models import loading
from lottery.models.blocks import count_zeros
from lottery.pruning.prune import prune
from lottery.pruning.variants import DENSE, Variant, retrained, variants
from lottery.training.recoveries import LOSSES, RECOVERIES
from lottery.training.recovery import recover

METHOD, SPARSITIES, RATES = "alps", [0.7, 0.9], [1e-4, 3e-4, 1e-3]
STEPS = 400  # of one window


def compare(device: torch.device) -> list[dict]:
    tokenizer, (seen, unseen) = loading.tokenizer(MODEL), halves()
    tokens = windows(tokenizer, unseen, WINDOW).tokens
    calibrated = calibration(tokenizer, seen, 64, WINDOW, seed=0).tokens
    samples = retraining(tokenizer, seen, STEPS, WINDOW, seed=1).tokens

    def started(variant: Variant) -> torch.nn.Module:
        model = loading.load(MODEL, loading.Plan(device, torch.float32, "benchmark"))
        prune(model, variant, calibrated)
        return model

    pruned = variants([METHOD], ["uniform"], ["unstructured"], SPARSITIES)
    starts, rows = {variant: started(variant) for variant in pruned}, []
    for variant in retrained(pruned, list(RECOVERIES), ["pruned", "dense"], list(LOSSES)):
        start = starts[variant.unchanged if variant.one_shot else DENSE]
        for rate in RATES:
            model, teacher = copy.deepcopy(start), copy.deepcopy(starts[DENSE]) if variant.loss == "distillation" else None
            asked = {"teacher": teacher} if variant.one_shot else {"teacher": teacher, "sparsity": variant.sparsity}
            recover(model, samples, 1, rate, variant.recovery, **asked)
            named = {"variant": f"{variant.label} {variant.sparsity:g}", "rate": f"{rate:g}"}
            rows.append({**named, "before": scored(start, tokens), "after": scored(model, tokens), "zeros": count_zeros(model).prunable})
            print(rows[-1], flush=True)
    return rows


if __name__ == "__main__":
    device, rounds = arguments(1)
    publish("recovery", device, rounds, compare(device), steps=STEPS, window=WINDOW)
