"""Tokens per second of two real models pruned by magnitude: sparse and dense by the decoder, beside transformers' own loop.

`make fetch PROFILE=real-models` first. The share of the bandwidth is that of a read of main memory by as many threads, right after.
"""

import statistics
import time

import torch

from benchmarks.alternate import arguments, publish
from lottery.common.errors import NotFetchedError
from lottery.common.format import dtype_name
from lottery.config.checkpoint import checkpoint
from lottery.config.profile import load_profile
from lottery.evaluation.decoder import Decoder, decode
from lottery.evaluation.generation import generate, greedy
from lottery.evaluation.savings import packed
from lottery.models import loading
from lottery.models.memory import bandwidth
from lottery.pruning.prune import prune
from lottery.pruning.variants import Variant

PROMPT, NEW_TOKENS = "The history of the town begins in the twelfth century, when", 50
PREFILL = 512  # tokens read at once, through transformers: each layer is unpacked for torch's product
SPARSITIES = (0.0, 0.5, 0.7, 0.9)


def pruned(found, dtype: torch.dtype, sparsity: float) -> torch.nn.Module:
    """The model pruned by magnitude in float32, its weights packed in ``dtype``; dense at 0."""
    model = loading.load(found, loading.Plan(torch.device("cpu"), torch.float32, "benchmark"))
    if sparsity:
        prune(model, Variant("magnitude", "uniform", "unstructured", sparsity))
    return packed(model.to(dtype)) if sparsity else model.to(dtype)


def compare(name: str, found, rounds: int) -> list[dict]:
    tokens = loading.tokenizer(found)(PROMPT, return_tensors="pt").input_ids
    models = {(dtype, s): pruned(found, dtype, s) for dtype in (torch.float32, torch.bfloat16) for s in SPARSITIES}
    decoders = {key: Decoder(model, tokens.shape[1] + NEW_TOKENS) for key, model in models.items()}
    speeds = {key: [] for key in decoders} | {"transformers": []}
    pace, prompt, reading = [], torch.arange(1000, 1000 + PREFILL)[None], {key: [] for key in decoders}
    for round_ in range(rounds + 1):
        for key, decoder in decoders.items():
            speed = (NEW_TOKENS - 1) / decode(decoder, tokens, NEW_TOKENS).decode
            speeds[key] += [speed] if round_ else []
        for key, model in models.items():
            started = time.perf_counter()
            with torch.inference_mode():
                model(prompt, logits_to_keep=1)
            reading[key] += [time.perf_counter() - started] if round_ else []
        run = generate(models[torch.float32, 0.0], tokens, NEW_TOKENS, greedy)
        speeds["transformers"] += [(NEW_TOKENS - 1) / run.decode] if round_ else []
        pace.append(bandwidth(torch.device("cpu")))
    prefill = {key: statistics.median(values) for key, values in reading.items()}
    median, floor = {key: statistics.median(values) for key, values in speeds.items()}, statistics.median(pace)
    return [
        {
            "model": name,
            "dtype": dtype_name(dtype),
            "sparsity": sparsity,
            "tokens_per_second": median[dtype, sparsity],
            "times_dense_by_the_same_decoder": median[dtype, sparsity] / median[dtype, 0.0],
            "times_transformers_float32": median[dtype, sparsity] / median["transformers"],
            "megabytes_read_a_token": decoder.read_bytes() / 1e6,
            "prefill_times_dense": prefill[dtype, sparsity] / prefill[dtype, 0.0],
            "of_read_bandwidth": decoder.read_bytes() * median[dtype, sparsity] / floor,
        }
        for (dtype, sparsity), decoder in decoders.items()
    ]  # fmt: skip


if __name__ == "__main__":
    _, rounds = arguments(7)
    profile = load_profile("real-models")
    for name in profile.checkpoints:
        found = checkpoint(profile.with_model(name))
        try:
            found.check()
        except NotFetchedError as error:
            print(f"{name}: not timed: {error}")
            continue
        publish(f"decoding-{name}", torch.device("cpu"), rounds, compare(name, found, rounds), prompt=PROMPT, new_tokens=NEW_TOKENS)
