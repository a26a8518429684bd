"""Exact selection of the lowest scores, and zeros in their place. A score's sign is ignored, so a weight can be its own score.

Over a layer or a whole model, selection is by radix, in two to five reads and almost no memory. The bits of a non-negative float, read as
an integer, sort in the order of its value. So scores are counted by their leading 16 bits. If the dtype has more bits, the scores that
share the decisive leading bits are counted by the next 16, and so on: once for 16-bit floats, twice for float32, four times for float64.
Nothing is sorted, nothing is sampled, and no case is slow. Along rows and in groups of M, selection is by partial sort and by stable sort.

The input comes in *chunks*: pairs of a stretch of weights and its scores, made anew for each read. So scores that are computed from the
weights never exist as a whole. Among equal scores the first in order go, on every run and device.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch

from lottery.common.errors import LotteryError

Chunks = Callable[[], Iterator[tuple[torch.Tensor, torch.Tensor]]]

_INTEGER = {2: torch.int16, 4: torch.int32, 8: torch.int64}
# Weights at a time. On a CPU a chunk and what is computed from it stay in the cache; a GPU wants few, large steps.
_CHUNK = {"cpu": 1 << 18, "cuda": 1 << 26}
_DIGIT = 16
_SORTED = 32  # groups up to so many are sorted, longer rows are partitioned


class Score(NamedTuple):
    """A score, located among all scores.

    Attributes:
        pattern: Its bit pattern.
        lower: How many scores are lower.
        equal: How many scores are equal.
    """

    pattern: int
    lower: int
    equal: int


def magnitude_chunks(*weights: torch.Tensor) -> Chunks:
    """Make chunks in which each weight is its own score. Tensors are contiguous; if dtypes differ, scores have the widest."""
    widest = max((weight.dtype for weight in weights), key=lambda dtype: dtype.itemsize)
    widest = widest if len({weight.dtype for weight in weights}) == 1 or widest.itemsize > 2 else torch.float32

    def chunks():
        for weight in weights:
            for stretch in weight.view(-1).split(_chunk(weight)):
                yield stretch, stretch.to(widest)

    return chunks


def score_chunks(weight: torch.Tensor, score: Callable[[torch.Tensor, slice], torch.Tensor]) -> Chunks:
    """Make chunks of whole rows with their scores.

    Args:
        weight: Weights [out, in].
        score: Given rows and which rows they are, returns their scores.

    Returns:
        The chunks.
    """
    rows = max(1, _chunk(weight) // weight.shape[1])

    def chunks():
        for start in range(0, weight.shape[0], rows):
            which = slice(start, min(start + rows, weight.shape[0]))
            yield weight[which], score(weight[which], which)

    return chunks


def kth_lowest(chunks: Chunks, k: int, name: str = "weight") -> Score:
    """Find the ``k``-th lowest score, exactly.

    Args:
        chunks: Weights and scores in chunks.
        k: From 1 to the number of scores.
        name: Name for errors.

    Returns:
        The score, how many scores are lower, and how many are equal.

    Raises:
        LotteryError: A score is not finite.
    """
    prefix, lower, equal, shift = 0, 0, 0, None
    while shift is None or shift > 0:
        counts, first = None, shift is None
        for _, score in chunks():
            if counts is None:
                width = 8 * score.element_size()
                shift = width - _DIGIT if first else shift - _DIGIT
                infinity = _pattern(torch.tensor(torch.inf, dtype=score.dtype))
                bins = 1 << (_DIGIT - 1 if first else _DIGIT)  # a score has no sign: its first digit is a bit shorter
                counts = torch.zeros(bins, dtype=torch.int64, device=score.device)
            bits = _bits(score)
            if not first:
                bits = bits[(bits >> (shift + _DIGIT)) == prefix]
            digit = (bits >> shift) & (bins - 1)
            counts += torch.bincount(digit.to(torch.int32), minlength=bins).to(counts.device)
        if first and counts[infinity >> shift :].any():
            raise not_finite(name)
        upto = counts.cumsum(0)
        digit = int(torch.searchsorted(upto, k - lower))
        equal = int(counts[digit])
        lower += int(upto[digit]) - equal
        prefix = prefix << _DIGIT | digit
    return Score(prefix, lower, equal)


def zero_lowest_(chunks: Chunks, count: int, name: str = "weight") -> None:
    """Zero the ``count`` weights with the lowest scores among all chunks, in place.

    Raises:
        LotteryError: As for ``kth_lowest``.
    """
    last = kth_lowest(chunks, max(count, 1), name)
    if count == 0:
        return
    ties_to_go = count - last.lower
    all_go = ties_to_go == last.equal  # as nearly always in float32: no need to count them
    for weight, score in chunks():
        bits = _bits(score)
        target = weight.view(-1).view(_INTEGER[weight.element_size()])  # as integers, so that no -0.0 is left
        ties = 0 if all_go or not ties_to_go else int(torch.count_nonzero(bits == last.pattern))
        if all_go or 0 < ties <= ties_to_go:
            target.mul_(bits > last.pattern)
            ties_to_go -= ties
            continue
        target.mul_(bits >= last.pattern)
        if ties:
            target[(bits == last.pattern).nonzero().squeeze(1)[:ties_to_go]] = 0
            ties_to_go = 0


def zero_lowest_along_(chunks: Chunks, count: int, group: int | None = None, name: str = "weight") -> None:
    """Zero the ``count`` weights with the lowest scores in every row, or in every ``group`` neighbours of a row, in place.

    Raises:
        LotteryError: A score is not finite.
    """
    for weight, score in chunks():
        if not torch.isfinite(score).all():
            raise not_finite(name)
        if group:
            weight, score = weight.view(-1, group), score.reshape(-1, group)
        weight.masked_fill_(lowest(score, count), 0)


def lowest(score: torch.Tensor, count: int) -> torch.Tensor:
    """Return a mask of the ``count`` lowest absolute scores along the last dimension; among equal scores it takes the first."""
    if count == 0:
        return torch.zeros_like(score, dtype=torch.bool)
    score = score.abs()
    if score.shape[-1] <= _SORTED:
        order = score.argsort(dim=-1, stable=True)[..., :count]
        return torch.zeros_like(score, dtype=torch.bool).scatter_(-1, order, True)
    kth = score.kthvalue(count, dim=-1, keepdim=True).values
    below, ties = score < kth, score == kth
    wanted = count - below.sum(-1, keepdim=True)
    if (ties.sum(-1, keepdim=True) > wanted).any():
        ties &= ties.cumsum(-1) <= wanted
    return below | ties


def kth_near(score: torch.Tensor, k: int, near: float | None = None) -> float:
    """Return the ``k``-th lowest of the scores [n], none below 0, exactly; with a good guess ``near`` several times as fast."""
    if near:
        low, high = score <= 0.9 * near, score <= 1.1 * near
        below, upto = int(torch.count_nonzero(low)), int(torch.count_nonzero(high))
        if below < k <= upto:
            return float(score[high ^ low].kthvalue(k - below).values)
    return float(score.kthvalue(k).values)


def _chunk(weight: torch.Tensor) -> int:
    return _CHUNK.get(weight.device.type, _CHUNK["cpu"])


def _bits(score: torch.Tensor) -> torch.Tensor:
    integer = _INTEGER[score.element_size()]
    return score.reshape(-1).view(integer) & torch.iinfo(integer).max


def _pattern(value: torch.Tensor) -> int:
    return int(value.view(_INTEGER[value.element_size()]))


def not_finite(name: str) -> LotteryError:
    """Make the error to raise if a layer's weights hold infinity or NaN."""
    return LotteryError(f"{name}: holds weights that are not finite; the checkpoint is damaged, or its dtype overflowed on loading")
