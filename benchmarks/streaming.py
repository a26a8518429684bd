"""Scoring with blocks that are streamed to the device, beside scoring a model that is there as a whole.

Time: Qwen2.5-0.5B's true shape on the CPU, where each block is copied as it is moved, as to a device. Memory of the device: true shapes in
float16, counted on an emulated one, dense and a variant beside it.
"""

from contextlib import contextmanager
from unittest.mock import patch

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from benchmarks import emulated
from benchmarks.alternate import alternate, arguments, publish
from benchmarks.shapes import SHAPES, unfilled
from lottery.evaluation.evaluate import evaluate

MODEL, WINDOW, WINDOWS = "qwen2.5-0.5b", 2048, 2


@contextmanager
def copied(modules, device):
    """Moving as it is between a device and main memory: there and back every tensor is copied."""
    tensors = [p for module in modules for p in module.parameters()]
    for tensor in tensors:
        tensor.data = tensor.data.clone()
    yield
    for tensor in tensors:
        tensor.data = tensor.data.clone()


def seconds(rounds: int) -> dict[str, float]:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**SHAPES[MODEL]), dtype=torch.float32).eval()
    tokens = torch.randint(1000, (WINDOWS, WINDOW)).numpy()

    def streamed(_):
        with patch("lottery.evaluation.evaluate.moved", copied), patch("lottery.models.calls.moved", copied):
            return evaluate(model, tokens, device=torch.device("cpu"))

    contestants = {"resident": lambda _: evaluate(model, tokens), "streamed": streamed}
    taken, _, results = alternate(contestants, lambda: None, torch.device("cpu"), rounds)
    if not torch.equal(results["resident"][0].nll, results["streamed"][0].nll):
        raise AssertionError("streamed and resident differ")
    return taken


def held(name: str, streamed: bool) -> int:
    """The most bytes on the emulated device, weights counted."""
    device, tokens = emulated.DEVICE, np.zeros((WINDOWS, WINDOW), dtype=np.int64)
    model = unfilled(name, "cpu" if streamed else str(device))
    with emulated.device() as found:
        found.count([*model.parameters()])
        _, states = evaluate(model, tokens, keep=True, device=device if streamed else None)
        evaluate(model, tokens, dense=states, device=device if streamed else None)
    return found.peak


def memory_of(name: str) -> dict:
    resident, streamed = held(name, False), held(name, True)
    return {"model": name, "resident_gb": resident / 1e9, "streamed_gb": streamed / 1e9, "times_less": resident / streamed}


if __name__ == "__main__":
    _, rounds = arguments()
    taken = seconds(rounds)
    rows = [memory_of(name) for name in SHAPES]
    ratio = taken["streamed"] / taken["resident"]
    print(f"{MODEL}: streamed takes {ratio:.3f} of the resident time, {taken['streamed']:.1f} of {taken['resident']:.1f} s")
    publish(
        "streaming", torch.device("cpu"), rounds, rows, timed=MODEL, window=WINDOW, windows=WINDOWS, seconds=taken, times_resident=ratio
    )
