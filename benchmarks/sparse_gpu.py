"""On a GPU: products of one 14336 × 4096 layer and one token, packed beside torch's dense layer; and two real models, sparse beside dense.

Copies of the layer, more than the L2 cache holds, are multiplied in one CUDA graph, so that Python's launches are not timed. Beside our
figures stand those that MACKO publishes (arXiv 2511.13061, float16, cuBLAS as its dense layer): products of such layers on two cards, and
Llama-2-7B on an RTX 4090. For the models, `make fetch PROFILE=real-models` first.
"""

import statistics

import torch
from torch.nn.functional import linear

from benchmarks.alternate import alternate, arguments, publish
from benchmarks.decoding import NEW_TOKENS, PROMPT, SPARSITIES, pruned
from lottery.common.errors import NotFetchedError
from lottery.common.format import dtype_name
from lottery.config.checkpoint import checkpoint
from lottery.config.profile import load_profile
from lottery.evaluation.decoder import decode
from lottery.evaluation.graph_decoder import GraphDecoder
from lottery.models import loading
from lottery.report.sections.savings import MACKO as MACKO_DECODING
from lottery.sparse.bitmask import pack
from lottery.sparse.linear import SparseLinear

SHAPE, COPIES = (14336, 4096), 12
MACKO = {  # times as fast as dense, by sparsity
    0.5: {"macko_2080_super": "1.34–1.49", "macko_4090": "1.26–1.59"},
    0.7: {"macko_2080_super": "1.94–2.13", "macko_4090": "1.94–2.36"},
    0.9: {"macko_2080_super": "3.07–3.43", "macko_4090": "4.0–4.4"},
}


def captured(way, of: list, x: torch.Tensor) -> torch.cuda.CUDAGraph:
    """A graph of one product by each copy."""
    for one in of[:2]:
        way(x, one)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for one in of:
            way(x, one)
    return graph


@torch.inference_mode()
def product(dtype: torch.dtype, sparsity: float, device: torch.device, rounds: int) -> dict:
    torch.manual_seed(0)
    dense = [
        torch.randn(SHAPE, device=device).masked_fill_(torch.rand(SHAPE, device=device) < sparsity, 0).to(dtype) for _ in range(COPIES)
    ]
    layers, x = [SparseLinear(pack(weight)) for weight in dense], torch.randn(1, SHAPE[1], device=device).to(dtype)
    graphs = {"torch": captured(linear, dense, x), "sparse": captured(lambda x, layer: layer(x), layers, x)}
    seconds, _, _ = alternate({name: lambda _, one=one: one.replay() for name, one in graphs.items()}, lambda: None, device, rounds)
    sparse, dense_seconds = seconds["sparse"] / COPIES, seconds["torch"] / COPIES
    return {
        "dtype": dtype_name(dtype),
        "sparsity": sparsity,
        "sparse_microseconds": 1e6 * sparse,
        "torch_microseconds": 1e6 * dense_seconds,
        "times_faster_than_torch": dense_seconds / sparse,
        **MACKO[sparsity],
        "read_gb_per_second_sparse": layers[0].packed.nbytes / sparse / 1e9,
        "read_gb_per_second_torch": dense[0].nbytes / dense_seconds / 1e9,
    }


def decoding(name: str, found, dtype: torch.dtype, device: torch.device, rounds: int) -> list[dict]:
    tokens = loading.tokenizer(found)(PROMPT, return_tensors="pt").input_ids
    models = {sparsity: pruned(found, dtype, sparsity).to(device) for sparsity in SPARSITIES}
    decoders = {sparsity: GraphDecoder(model, tokens.shape[1] + NEW_TOKENS) for sparsity, model in models.items()}
    runs = [
        {sparsity: (NEW_TOKENS - 1) / decode(decoder, tokens, NEW_TOKENS).decode for sparsity, decoder in decoders.items()}
        for _ in range(rounds + 1)
    ][1:]
    speeds = {sparsity: statistics.median(run[sparsity] for run in runs) for sparsity in decoders}
    return [
        {
            "model": name,
            "dtype": dtype_name(dtype),
            "sparsity": sparsity,
            "tokens_per_second": speeds[sparsity],
            "times_dense_by_the_same_decoder": speeds[sparsity] / speeds[0.0],
            "macko_llama_2_7b_4090": f"{MACKO_DECODING[sparsity]:g}",
            "read_gb_per_second": decoder.read_bytes() * speeds[sparsity] / 1e9,
        }
        for sparsity, decoder in decoders.items()
    ]


def main() -> None:
    device, rounds = arguments(21)
    if device.type != "cuda":
        print(
            "sparse_gpu: not timed: torch sees no GPU" if not torch.cuda.is_available() else "sparse_gpu: not timed: it needs --device cuda"
        )
        return
    native = torch.cuda.get_device_capability() >= (8, 0)  # below, bfloat16 is emulated
    for dtype in (torch.float16, torch.bfloat16) if native else (torch.float16,):
        rows = [product(dtype, sparsity, device, rounds) for sparsity in MACKO]
        publish(f"sparse_gpu-{str(dtype).removeprefix('torch.')}", device, rounds, rows, shape=SHAPE, copies=COPIES)
    profile = load_profile("real-models")
    for name in profile.checkpoints:
        found = checkpoint(profile.with_model(name))
        try:
            found.check()
        except NotFetchedError as error:
            print(f"{name}: not timed: {error}")
            continue
        rows = decoding(name, found, torch.bfloat16 if native else torch.float16, device, rounds)
        publish(f"decoding_gpu-{name}", device, rounds, rows, prompt=PROMPT, new_tokens=NEW_TOKENS)


if __name__ == "__main__":
    main()
