"""How fast an exported model writes: with packed weights, with the same weights dense, and by transformers' own loop."""

import statistics
from typing import NamedTuple

import torch

from lottery.common.errors import LotteryError
from lottery.common.paths import resolve
from lottery.evaluation.decoder import Decoder, decode
from lottery.evaluation.generation import generate, greedy
from lottery.evaluation.graph_decoder import GraphDecoder
from lottery.models import loading
from lottery.models.checkpoints import Checkpoint
from lottery.sparse import folder


class Decoded(NamedTuple):
    """One way of decoding.

    Attributes:
        how: What it is called.
        weights: Bytes of weights that a token reads.
        tokens_per_second: Median over the repeats, the prompt's pass left out.
        text: What was written.
    """

    how: str
    weights: int
    tokens_per_second: float
    text: str


def compare(exported: str, prompt: str, new_tokens: int = 50, repeats: int = 5) -> list[Decoded]:
    """Decode greedily in three ways, in turn, so that they share whatever else the machine does; on a GPU where torch sees one.

    Args:
        exported: A folder that ``export`` wrote.
        prompt: The text to continue.
        new_tokens: Tokens to write after it.
        repeats: Timed runs of each way, after one that is not timed.

    Returns:
        The packed weights by this package's decoder, the same weights dense by the same decoder, and dense by transformers' own loop.

    Raises:
        LotteryError: The folder is not in the sparse-bitmask format, its architecture is not supported, or the device has no kernel.
    """
    source = _checkpoint(exported)
    tokenizer = loading.tokenizer(source)
    device, decoder_of = ("cuda", GraphDecoder) if torch.cuda.is_available() else ("cpu", Decoder)
    tokens = tokenizer(prompt, return_tensors="pt").input_ids.to(device)
    packed, dense = (loading.load_sparse(source, packed=packed).to(device) for packed in (True, False))
    room = tokens.shape[1] + new_tokens
    decoders = {"sparse": decoder_of(packed, room), "dense": decoder_of(dense, room)}
    ways = {name: lambda decoder=decoder: decode(decoder, tokens, new_tokens) for name, decoder in decoders.items()}
    ways["dense, transformers"] = lambda: generate(dense, tokens, new_tokens, greedy)
    runs = [{name: way() for name, way in ways.items()} for _ in range(repeats + 1)][1:]
    found = []
    for name in ways:
        decoder = decoders.get(name, decoders["dense"])
        speed = statistics.median((new_tokens - 1) / run[name].decode for run in runs)
        found.append(Decoded(name, decoder.read_bytes(), speed, tokenizer.decode(runs[0][name].tokens[0])))
    return found


def _checkpoint(exported: str) -> Checkpoint:
    where = resolve(exported)
    if not folder.is_sparse(where):
        raise LotteryError(f"{exported} is not in the sparse-bitmask format; allowed: a folder that make export wrote")
    return Checkpoint(where.name, "folder", str(where)).check()
