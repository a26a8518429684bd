"""What to prune in a layer, and how to prune its lowest scores."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from lottery.common.errors import ImpossibleTrialError, LotteryError
from lottery.pruning.pattern import Pattern
from lottery.pruning.selection import kth_near, lowest, magnitude_chunks, not_finite, score_chunks, zero_lowest_, zero_lowest_along_


@dataclass(frozen=True)
class LayerSpec:
    """What to prune in one layer.

    Attributes:
        name: The layer's name.
        sparsity: Share of weights to prune.
        pattern: N:M pattern to prune to instead of a sparsity; ``None`` for unstructured pruning.
        seed: Seed for methods that draw.
    """

    name: str
    sparsity: float
    pattern: Pattern | None = None
    seed: int = 0

    def check(self, weight: torch.Tensor) -> None:
        """Check that the pattern fits ``weight`` [out, in].

        Raises:
            LotteryError: It does not.
        """
        if self.pattern and weight.shape[1] % self.pattern.group:
            raise LotteryError(
                f"pattern: given '{self.pattern.kept}:{self.pattern.group}', but {self.pattern.group} does not divide the"
                f" {weight.shape[1]} inputs of {self.name}; take another pattern, or unstructured"
            )

    def check_values(self, weight: torch.Tensor) -> None:
        """Check what ``check`` does, and that every weight is finite.

        Raises:
            LotteryError: The pattern does not fit, or a weight is not finite.
        """
        self.check(weight)
        if not torch.isfinite(weight).all():
            raise not_finite(self.name)

    def zeros_of_row(self, inputs: int) -> int:
        """Return how many weights of a row go.

        Raises:
            ImpossibleTrialError: All of them.
        """
        count = round(self.sparsity * inputs)
        if count == inputs:
            raise ImpossibleTrialError(
                f"{self.name}: {100 * self.sparsity:g}% of a row of {count} weights rounds to all of them; lower the sparsity"
            )
        return count

    def lowest(self, score: torch.Tensor, sparsity: float | None = None, near: float | None = None) -> tuple[torch.Tensor, float | None]:
        """Return a mask of the lowest absolute scores [out, in] of the layer, or with a pattern of each group, and the highest of them.

        Among equal scores the first in order go. With a pattern, or if nothing goes, no highest one is returned.

        Args:
            score: Scores [out, in], contiguous.
            sparsity: Share that goes; by default the one of the spec. A pattern has its own.
            near: A guess at the highest score that goes, such as the one returned last; with a good one it is several times as fast.
        """
        if self.pattern:
            return lowest(score.view(-1, self.pattern.group), self.pattern.zeros).view_as(score), None
        count = round((self.sparsity if sparsity is None else sparsity) * score.numel())
        if count == 0:
            return torch.zeros_like(score, dtype=torch.bool), None
        size = score.abs()
        threshold = kth_near(size.view(-1), count, near)
        gone = size <= threshold
        exact = int(torch.count_nonzero(gone)) == count  # otherwise there are ties
        return gone if exact else lowest(size.view(1, -1), count).view_as(score), threshold


def prune_lowest_(
    weight: torch.Tensor, score: Callable[[torch.Tensor, slice], torch.Tensor] | None, spec: LayerSpec, *, comparison_group: str
) -> None:
    """Zero the weights with the lowest scores, in place; the others keep every bit.

    Exactly round(sparsity · n) of the n weights of each layer or row go, or with a pattern M - N of each group of M.

    Args:
        weight: Weights [out, in], contiguous.
        score: Given rows of it and which rows they are, returns their scores, none below 0; ``None`` takes each weight's magnitude.
        spec: What to prune.
        comparison_group: 'layer' or 'row': among which weights the lowest are sought. With a pattern it is always the group of M.

    Raises:
        LotteryError: The pattern does not fit, as in ``LayerSpec.check``; a score is not finite; or nothing of a row would stay.
        ValueError: A score is negative, whose sign the selection would not see, or ``weight`` is not contiguous.
    """
    if not weight.is_contiguous():
        raise ValueError(f"{spec.name}: the tensor is not contiguous; call .contiguous() and prune that")
    spec.check(weight)

    def checked(rows: torch.Tensor, which: slice) -> torch.Tensor:
        found = score(rows, which)
        if found.amin() < 0:
            raise ValueError(f"{spec.name}: its scores go down to {found.amin():.3g}; allowed: 0 and above, and the lowest are pruned")
        return found

    by_row = checked if score else lambda rows, which: rows
    if spec.pattern:
        zero_lowest_along_(score_chunks(weight, by_row), spec.pattern.zeros, spec.pattern.group, spec.name)
    elif comparison_group == "row":
        zero_lowest_along_(score_chunks(weight, by_row), spec.zeros_of_row(weight.shape[1]), None, spec.name)
    else:
        chunks = score_chunks(weight, checked) if score else magnitude_chunks(weight)
        zero_lowest_(chunks, round(spec.sparsity * weight.numel()), spec.name)
