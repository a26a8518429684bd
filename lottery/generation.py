"""Generation at batch 1: how fast, in how much memory, and what the model writes."""

import math
import time
from typing import NamedTuple

import torch
from torch.nn.functional import cross_entropy

from lottery.loading import describe
from lottery.records import Speed

_WARM_UP = 2


class Generated(NamedTuple):
    """The new tokens, int64 [new_tokens]; seconds until the first of them (prefill), and from the first to the last (decoding)."""

    tokens: torch.Tensor
    prefill: float
    decode: float


@torch.inference_mode()
def generate(model, prompt: torch.Tensor, new_tokens: int, choose) -> Generated:
    """Exactly ``new_tokens`` tokens after a prompt, with the key-value cache; an end-of-text token does not stop it.

    **Arguments**: ``prompt``, int64 [1, length] on the model's device; ``choose``, a function from fp32 logits [vocabulary] to a
    token [1].
    """
    _synchronize(prompt.device)
    started = time.perf_counter()
    output = model(input_ids=prompt, use_cache=True, logits_to_keep=1)
    tokens = [choose(output.logits[0, -1].float())]
    _synchronize(prompt.device)
    first = time.perf_counter()
    for _ in range(new_tokens - 1):
        output = model(input_ids=tokens[-1].view(1, 1), past_key_values=output.past_key_values, use_cache=True)
        tokens.append(choose(output.logits[0, -1].float()))
    _synchronize(prompt.device)
    return Generated(torch.cat(tokens), first - started, time.perf_counter() - first)


def greedy(logits: torch.Tensor) -> torch.Tensor:
    return logits.argmax(keepdim=True)


def sampler(temperature: float, seed: int, banned: list[int]):
    """Draws from softmax(logits / temperature) without the ``banned`` tokens, on the CPU: one seed draws alike on every device."""
    generator = torch.Generator().manual_seed(seed)

    def choose(logits: torch.Tensor) -> torch.Tensor:
        # A broken model's logits may be infinite or undefined; they must give some token, not an exception.
        scaled = torch.nan_to_num(logits.cpu() / temperature, nan=-1e9, posinf=1e9, neginf=-1e9)
        scaled[banned] = -torch.inf
        return torch.multinomial(scaled.softmax(0), 1, generator=generator).to(logits.device)

    return choose


def speed(model, prompt: torch.Tensor, new_tokens: int, repeats: int) -> Speed:
    """Times greedy generation of ``new_tokens`` tokens ``repeats`` times after two untimed runs.

    Zeros in a dense tensor are multiplied like any other number: over sparsity these figures should be flat.
    """
    for _ in range(_WARM_UP):
        generate(model, prompt, new_tokens, greedy)
    runs = [generate(model, prompt, new_tokens, greedy) for _ in range(repeats)]
    return Speed(
        new_tokens=new_tokens,
        tokens_per_second=[new_tokens / (run.prefill + run.decode) for run in runs],
        prefill_tokens_per_second=[prompt.shape[1] / run.prefill for run in runs],
        decode_tokens_per_second=[(new_tokens - 1) / run.decode for run in runs],
        device=describe(prompt.device),
    )


def decode_bytes(model) -> int:
    """Bytes of weights that are read for every token: all of them, but for an embedding that is not the head too."""
    ends = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    lookup = 0 if ends[0] is ends[1] else ends[0].numel() * ends[0].element_size()
    return sum(p.numel() * p.element_size() for p in model.parameters()) - lookup


@torch.inference_mode()
def bits_per_byte(model, tokenizer, pairs: list[tuple[str, str]]) -> float:
    """How well a model predicts texts after their beginnings: bits per UTF-8 byte over all of them; infinite where there is no text.

    **Arguments**: the model and its tokenizer; pairs of a beginning and the text that follows it.
    """
    bits, size = 0.0, 0
    for beginning, text in pairs:
        tokens = tokenizer(beginning + text, return_tensors="pt").input_ids.to(model.get_input_embeddings().weight.device)
        known = len(tokenizer(beginning).input_ids)
        logits = model(input_ids=tokens, use_cache=False).logits[0, known - 1 : -1].float()
        bits += float(cross_entropy(logits, tokens[0, known:], reduction="sum")) / math.log(2)
        size += len(text.encode())
    return bits / size if size else math.inf


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
