"""How much each method changes the outputs of the layers of SmolLM2-135M on the calibration text, as multiples of SparseGPT's error.

`make fetch PROFILE=real-methods` first. Every layer is fed by the dense model and pruned by every method from the same products of its
inputs, so methods differ in nothing else. ADMM and ALPS are held to no more than SparseGPT's error at 50%, and four
fifths of it at 70 and 80%. The error is ‖X(W - Ŵ)ᵀ‖², summed over the layers, each as a share of its outputs' ‖XWᵀ‖².
"""

import copy
import time

import torch

from benchmarks.alternate import arguments, publish
from lottery.config.checkpoint import checkpoint
from lottery.config.profile import load_profile
from lottery.data.calibration import calibration
from lottery.data.corpus import corpus
from lottery.models import loading
from lottery.pruning.catalogue import METHODS
from lottery.pruning.layer_spec import LayerSpec
from lottery.pruning.walk import Layer, walk

SPARSITIES = (0.5, 0.7, 0.8)
COMPARED = ("sparsegpt", "wanda", "admm", "alps")
SAMPLES = 32  # of 512 tokens


@torch.no_grad()
def compare(device: torch.device) -> list[dict]:
    profile = load_profile("real-methods")
    found = checkpoint(profile.with_model("smollm2-135m-q4")).check()
    model = loading.load(found, loading.Plan(device, torch.float32, "benchmark"))
    text = corpus(profile.calibration_text, "calibration_text")
    samples = calibration(loading.tokenizer(found), text, SAMPLES, 512, 0).tokens
    errors = {(method, sparsity): 0.0 for method in COMPARED for sparsity in SPARSITIES}
    seconds = dict.fromkeys(errors, 0.0)
    views = {}  # of a method, layers that share their inputs share what it makes of them

    def visit(_, fed: list[Layer]) -> None:
        views.clear()
        for layer in fed:
            weight, gram = layer.linear.weight, layer.inputs.gram.double()
            whole = float(((weight.double() @ gram) * weight).sum())
            for method, sparsity in errors:
                inputs = views.setdefault((id(layer.inputs), method), copy.deepcopy(layer.inputs))
                pruned, started = weight.detach().clone(), time.perf_counter()
                METHODS[method].function(pruned, LayerSpec(layer.name, sparsity), inputs)
                seconds[method, sparsity] += time.perf_counter() - started
                change = (weight - pruned).double()
                errors[method, sparsity] += float(((change @ gram) * change).sum()) / whole

    walk(model, samples, visit, gram=True)
    return [
        {
            "sparsity": f"{sparsity:g}",
            **{f"{method}_error": errors[method, sparsity] for method in COMPARED},
            **{f"{method}_times_sparsegpt": errors[method, sparsity] / errors["sparsegpt", sparsity] for method in COMPARED[1:]},
            **{f"{method}_seconds": seconds[method, sparsity] for method in COMPARED},
        }
        for sparsity in SPARSITIES
    ]


if __name__ == "__main__":
    device, rounds = arguments(1)
    publish("reconstruction", device, rounds, compare(device), model="smollm2-135m-q4", samples=SAMPLES)
