"""Generation at batch 1: how fast, in how much memory, and what the model writes."""

import inspect
import math
import time
from typing import NamedTuple

import torch
from pydantic import BaseModel
from torch.nn.functional import cross_entropy

from lottery.models.devices import describe

_WARM_UP = 2


class Speed(BaseModel):
    """Speed of greedy generation at batch 1.

    Attributes:
        new_tokens: Tokens generated per run, exactly.
        tokens_per_second: Of each run, over ``new_tokens`` tokens, the prompt's pass included.
        prefill_tokens_per_second: Of each run, tokens of the prompt read per second (prefill).
        decode_tokens_per_second: Of each run, tokens after the first written per second (decoding).
        device: Name of the device.
    """

    new_tokens: int
    tokens_per_second: list[float]
    prefill_tokens_per_second: list[float]
    decode_tokens_per_second: list[float]
    device: str

    @classmethod
    def of(cls, runs: list["Generated"], prompt: torch.Tensor) -> "Speed":
        """Return the speed of some runs after a prompt, int64 [1, length]."""
        new_tokens = runs[0].tokens.shape[1]
        return cls(
            new_tokens=new_tokens,
            tokens_per_second=[new_tokens / (run.prefill + run.decode) for run in runs],
            prefill_tokens_per_second=[prompt.shape[1] / run.prefill for run in runs],
            decode_tokens_per_second=[(new_tokens - 1) / run.decode for run in runs],
            device=describe(prompt.device),
        )


class Generated(NamedTuple):
    """New tokens and the time they took.

    Attributes:
        tokens: The new tokens, int64 [texts, new_tokens].
        prefill: Seconds until the first of them.
        decode: Seconds from the first to the last.
    """

    tokens: torch.Tensor
    prefill: float
    decode: float


@torch.inference_mode()
def generate(model, prompts: torch.Tensor, new_tokens: int, choose, mask: torch.Tensor | None = None) -> Generated:
    """Generate exactly ``new_tokens`` tokens after each prompt, with the key-value cache; an end-of-text token does not stop it.

    Args:
        model: A causal language model.
        prompts: Tokens, int64 [texts, length], on the model's device.
        new_tokens: Tokens to generate per text.
        choose: A function from fp32 logits [texts, vocabulary] to tokens [texts].
        mask: int64 like ``prompts``, 0 where shorter prompts are padded on the left.

    Returns:
        The new tokens and the time they took.
    """
    device = prompts.device
    _synchronize(device)
    started = time.perf_counter()
    output = model(input_ids=prompts, use_cache=True, logits_to_keep=1, **_places(model, mask, prompts.shape[1]))
    tokens = [choose(output.logits[:, -1].float())]
    _synchronize(device)
    first = time.perf_counter()
    for _ in range(new_tokens - 1):
        mask = None if mask is None else torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        output = model(input_ids=tokens[-1][:, None], past_key_values=output.past_key_values, use_cache=True, **_places(model, mask, 1))
        tokens.append(choose(output.logits[:, -1].float()))
    _synchronize(device)
    return Generated(torch.stack(tokens, 1), first - started, time.perf_counter() - first)


def _places(model, mask: torch.Tensor | None, last: int) -> dict:
    """Return what a model must be told of padded prompts: the mask, and the positions of the ``last`` tokens if it takes them."""
    if mask is None:
        return {}
    takes = "position_ids" in inspect.signature(model.forward).parameters  # not where positions are biases of the attention
    return {"attention_mask": mask} | ({"position_ids": (mask.cumsum(1) - 1).clamp(min=0)[:, -last:]} if takes else {})


def greedy(logits: torch.Tensor) -> torch.Tensor:
    return logits.argmax(-1)


def sampler(temperature: float, seeds: list[int], banned: list[int]):
    """Make a function that draws from softmax(logits / temperature) without the ``banned`` tokens.

    It draws on the CPU with one seed per text, so a seed draws alike on every device, and whichever other texts are written beside it.

    Args:
        temperature: Above 0.
        seeds: One seed per text.
        banned: Tokens that are never drawn.

    Returns:
        A function from logits [texts, vocabulary] to tokens [texts].
    """
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def choose(logits: torch.Tensor) -> torch.Tensor:
        # A broken model's logits may be infinite or undefined; they must give some token, not an exception.
        scaled = torch.nan_to_num(logits.cpu() / temperature, nan=-1e9, posinf=1e9, neginf=-1e9)
        scaled[:, banned] = -torch.inf
        shares = zip(scaled.softmax(-1), generators, strict=True)
        return torch.cat([torch.multinomial(share, 1, generator=generator) for share, generator in shares]).to(logits.device)

    return choose


class Continuation(NamedTuple):
    """What a model wrote after a beginning.

    Attributes:
        beginning: Tokens of the beginning.
        tokens: Tokens that the model wrote.
        text: Their text.
    """

    beginning: list[int]
    tokens: list[int]
    text: str


def continuations(model, tokenizer, beginnings: list[str], new_tokens: int, temperature: float = 0.0, seed: int = 0) -> list[Continuation]:
    """Continue each beginning with exactly ``new_tokens`` tokens, all in one batch; drawn tokens are never special ones.

    Args:
        model: A causal language model.
        tokenizer: Its tokenizer.
        beginnings: Texts to continue.
        new_tokens: Tokens to write after each.
        temperature: 0 takes the likeliest token each time; above 0 tokens are drawn.
        seed: Text ``i`` is drawn with ``seed + i``.

    Returns:
        One continuation per beginning.
    """
    encoded = [tokenizer(beginning).input_ids for beginning in beginnings]
    longest, device = max(map(len, encoded)), model.get_input_embeddings().weight.device
    padded = torch.tensor([[0] * (longest - len(tokens)) + tokens for tokens in encoded], device=device)
    mask = torch.tensor([[0] * (longest - len(tokens)) + [1] * len(tokens) for tokens in encoded], device=device)
    choose = sampler(temperature, [seed + i for i in range(len(encoded))], tokenizer.all_special_ids) if temperature else greedy
    written = generate(model, padded, new_tokens, choose, None if bool(mask.all()) else mask).tokens.tolist()
    return [Continuation(*pair, _text(tokenizer, *pair)) for pair in zip(encoded, written, strict=True)]


def _text(tokenizer, beginning: list[int], tokens: list[int]) -> str:
    """Decode tokens behind a beginning, together with it: some tokenizers drop the space in front of a text's first word."""
    before, whole = (tokenizer.decode(ids, skip_special_tokens=True) for ids in (beginning, beginning + tokens))
    return whole[len(before) :] if whole.startswith(before) else tokenizer.decode(tokens, skip_special_tokens=True)


def speed(model, prompt: torch.Tensor, new_tokens: int, repeats: int) -> Speed:
    """Time transformers' own greedy generation of ``new_tokens`` tokens ``repeats`` times, after two untimed runs.

    Zeros in a dense tensor are multiplied like any other number, so these figures should be flat over sparsity.
    """
    for _ in range(_WARM_UP):
        generate(model, prompt, new_tokens, greedy)
    return Speed.of([generate(model, prompt, new_tokens, greedy) for _ in range(repeats)], prompt)


def decode_bytes(model) -> int:
    """Count the bytes of weights read for every token: all of them, except an embedding that is not also the head."""
    ends = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    lookup = 0 if ends[0] is ends[1] else ends[0].numel() * ends[0].element_size()
    return sum(p.numel() * p.element_size() for p in model.parameters()) - lookup


@torch.inference_mode()
def bits(model, beginning: list[int], tokens: list[int]) -> float:
    """Return how surprising a model finds tokens after a beginning: the sum of their negative log-likelihoods, in bits."""
    ids = torch.tensor([beginning + tokens], device=model.get_input_embeddings().weight.device)
    logits = model(input_ids=ids, use_cache=False, logits_to_keep=len(tokens) + 1).logits[0, :-1].float()
    return float(cross_entropy(logits, ids[0, len(beginning) :], reduction="sum")) / math.log(2)


def bits_per_byte(model, tokenizer, pairs: list[tuple[str, str]]) -> float:
    """Measure how well a model predicts texts after their beginnings.

    Args:
        model: A causal language model.
        tokenizer: Its tokenizer.
        pairs: Pairs of a beginning and the text that follows it.

    Returns:
        Bits per UTF-8 byte over all texts; infinite if there is no text.
    """
    total, size = 0.0, 0
    for beginning, text in pairs:
        encoded = tokenizer(beginning + text, return_offsets_mapping=True)
        # A token that begins before the text and ends within it is of the text: none of its bytes may go unscored.
        known = sum(end <= len(beginning) for _, end in encoded.offset_mapping)
        total += bits(model, encoded.input_ids[:known], encoded.input_ids[known:])
        size += len(text.encode())
    return total / size if size else math.inf


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
