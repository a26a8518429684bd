"""Generation at batch 1: how fast, in how much memory, and what the model writes."""

import time

import torch

from lottery import memory
from lottery.records import Speed

_WARM_UP = 2


@torch.inference_mode()
def generate(model, prompt: torch.Tensor, new_tokens: int, choose) -> tuple[torch.Tensor, float]:
    """Exactly ``new_tokens`` tokens after a prompt, with the key-value cache; an end-of-text token does not stop it.

    **Arguments**: ``prompt``, int64 [1, length] on the model's device; ``choose``, a function from fp32 logits [vocabulary] to a
    token [1].

    **Returns** the new tokens, int64 [new_tokens], and the seconds from the first new token to the last (decoding alone).
    """
    output = model(input_ids=prompt, use_cache=True, logits_to_keep=1)
    tokens = [choose(output.logits[0, -1].float())]
    _synchronize(prompt.device)
    started = time.perf_counter()
    for _ in range(new_tokens - 1):
        output = model(input_ids=tokens[-1].view(1, 1), past_key_values=output.past_key_values, use_cache=True)
        tokens.append(choose(output.logits[0, -1].float()))
    _synchronize(prompt.device)
    return torch.cat(tokens), time.perf_counter() - started


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
    """Times greedy generation of ``new_tokens`` tokens ``repeats`` times after two untimed runs, and notes the peak memory.

    Zeros in a dense tensor are multiplied like any other number: over sparsity these figures should be flat.
    """
    for _ in range(_WARM_UP):
        generate(model, prompt, new_tokens, greedy)
    memory.reset_peak(prompt.device)
    total, decode = [], []
    for _ in range(repeats):
        _synchronize(prompt.device)
        started = time.perf_counter()
        _, decoding = generate(model, prompt, new_tokens, greedy)
        total.append(new_tokens / (time.perf_counter() - started))
        decode.append((new_tokens - 1) / decoding)
    peak, kind = memory.peak(prompt.device)
    return Speed(new_tokens=new_tokens, tokens_per_second=total, decode_tokens_per_second=decode, peak_bytes=peak, peak_kind=kind)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
