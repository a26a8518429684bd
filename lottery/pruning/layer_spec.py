"""What is to be cut from a layer, and the cut of its lowest scores."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from lottery.common.errors import LotteryError
from lottery.pruning.pattern import Pattern
from lottery.pruning.selection import own_parts, scored_parts, zero_lowest_, zero_lowest_along_


@dataclass(frozen=True)
class Cut:
    """From the layer ``name``, ``share`` of the weights, or those of ``pattern``; ``seed`` for methods that draw."""

    name: str
    share: float
    pattern: Pattern | None = None
    seed: int = 0

    def check(self, weight: torch.Tensor) -> None:
        """**Raises** ``LotteryError`` where the pattern does not fit ``weight`` [out, in]."""
        if self.pattern and weight.shape[1] % self.pattern.group:
            raise LotteryError(
                f"pattern: given '{self.pattern.kept}:{self.pattern.group}', but {self.pattern.group} does not divide the"
                f" {weight.shape[1]} inputs of {self.name}; take another pattern, or unstructured"
            )


def zero_by_score_(
    weight: torch.Tensor, score: Callable[[torch.Tensor, slice], torch.Tensor] | None, cut: Cut, *, compared_in: str
) -> None:
    """Zeros what scores lowest, in place; what stays is untouched to the bit.

    **Arguments**: ``weight`` [out, in], contiguous; ``score``, given rows of it and which rows they are, returns their scores
    (``None``: each weight is its own); ``compared_in``, 'layer' or 'row': among which weights the lowest are sought. With a pattern
    that is always the group of M.

    Exactly round(share · n) of the n weights of each layer or row go, or N of each group. **Raises** ``LotteryError`` as ``Cut.check``,
    and where a score is not finite or nothing of a row would stay.
    """
    if not weight.is_contiguous():
        raise ValueError(f"{cut.name}: the tensor is not contiguous; call .contiguous() and prune that")
    cut.check(weight)
    if cut.pattern:
        zero_lowest_along_(scored_parts(weight, score or _itself), cut.pattern.zeros, cut.pattern.group, cut.name)
    elif compared_in == "row":
        count = round(cut.share * weight.shape[1])
        if count == weight.shape[1]:
            raise LotteryError(f"{cut.name}: {100 * cut.share:g}% of a row of {count} weights rounds to all of them; lower the sparsity")
        zero_lowest_along_(scored_parts(weight, score or _itself), count, None, cut.name)
    else:
        parts = scored_parts(weight, score) if score else own_parts(weight)
        zero_lowest_(parts, round(cut.share * weight.numel()), cut.name)


def _itself(rows: torch.Tensor, which: slice) -> torch.Tensor:
    return rows
