"""What a profile can ask for: methods, allocations, patterns and sparsities, and which of them go together."""

from collections.abc import Sequence
from typing import NamedTuple

from lottery.common.format import NBSP, percent
from lottery.pruning.catalogue import ALLOCATIONS, METHODS
from lottery.pruning.pattern import Pattern
from lottery.pruning.rounding import ROUNDERS

ROUNDED = "rounded"  # the method of a variant that is rounded and not pruned
RETRAINED = "retrained"  # the method of a variant that is retrained from the dense model


class Variant(NamedTuple):
    """One way to prune a model, to round it, or both.

    The dense model is the variant 'dense' at sparsity 0. ``rounder`` names how weights are rounded, to ``bits`` bits each, ``recovery`` how
    they are retrained, and ``loss`` what they are retrained on; ``None`` leaves them as they are.
    """

    method: str
    allocation: str
    pattern: str
    sparsity: float
    rounder: str | None = None
    bits: int | None = None
    recovery: str | None = None
    loss: str | None = None

    @property
    def label(self) -> str:
        """The method and whatever is not the default: 'wanda', 'wanda + owl', 'wanda 2:4', 'rtn 4 bit', 'wanda + elsa'.

        What is retrained from the dense model is called 'elsa', or 'dense + masked' where nothing of it is pruned.
        """
        if self.method == ROUNDED:
            return self.rounding
        if self.method == RETRAINED:
            pattern = f" {self.pattern}" if self.pattern != "unstructured" else ""
            return self.retraining + pattern if self.pruned else f"dense + {self.retraining}"
        allocation = f" + {self.allocation}" if self.allocation != "uniform" else ""
        pattern = f" {self.pattern}" if self.pattern != "unstructured" else ""
        return self.method + allocation + pattern + self._afterwards

    @property
    def _afterwards(self) -> str:
        """What is done after pruning, such as ' + masked' or ' + rtn 4 bit'."""
        return (f" + {self.retraining}" if self.recovery else "") + (f" + {self.rounding}" if self.bits else "")

    @property
    def retraining(self) -> str:
        """How weights are retrained, such as 'masked' or 'elsa (distilled)'; empty where they are not."""
        return (self.recovery or "") + (" (distilled)" if self.loss == "distillation" else "")

    @property
    def rounding(self) -> str:
        """How weights are rounded, such as 'rtn 4 bit'; empty where they are not."""
        return f"{self.rounder} {self.bits} bit" if self.bits else ""

    @property
    def title(self) -> str:
        """What a person calls the variant, on one line: 'wanda 50%', 'sparsegpt 2:4', 'ria + owl 70%', 'wanda 50% + rtn 4 bit', 'dense'."""
        if not self.sparsity:
            return self.label.replace(" ", NBSP)
        share = "" if self.pattern != "unstructured" else f" {percent(self.sparsity)}"
        if not self.one_shot:
            return (self.label + share).replace(" ", NBSP)
        return (self.unchanged.label + share + self._afterwards).replace(" ", NBSP)

    @property
    def pruned(self) -> bool:
        return self.sparsity > 0

    @property
    def one_shot(self) -> bool:
        """Whether a method prunes it: not the dense model, nor what retraining itself prunes."""
        return self.pruned and self.method != RETRAINED

    @property
    def unchanged(self) -> "Variant":
        """The same as it is before anything is retrained or rounded."""
        return self._replace(rounder=None, bits=None, recovery=None, loss=None)

    @property
    def changed(self) -> bool:
        """Whether it is more than dense or pruned: a control or a cure, which is shown in a section of its own."""
        return self != self.unchanged

    @property
    def calibrated(self) -> bool:
        """Whether it needs calibration data."""
        if self.rounder and ROUNDERS[self.rounder].calibrated:
            return True
        if not self.one_shot:
            return False
        return METHODS[self.method].calibrated or ALLOCATIONS[self.allocation].calibrated


DENSE = Variant("dense", "uniform", "unstructured", 0.0)


def variants(
    methods: list[str],
    allocations: list[str],
    patterns: list[str],
    sparsities: list[float],
) -> list[Variant]:
    """List the dense model, then every combination that makes sense, at rising sparsity.

    N:M sets the sparsity of every layer, so it goes only with the uniform allocation and the sparsity 1 - N/M. A method over the whole
    model allocates the sparsity itself, so it goes with neither N:M nor another allocation.

    Args:
        methods: Names of methods.
        allocations: Names of allocations.
        patterns: Patterns, such as "unstructured" or "2:4".
        sparsities: Target sparsities; 0 is the dense model.

    Returns:
        The variants.

    Raises:
        ValueError: Something that was asked for makes sense with nothing else that was; the message is one line.
    """
    found = [DENSE]
    for method in methods:
        for allocation in allocations:
            for pattern in patterns:
                shape = Pattern.parse(pattern)
                special = (METHODS[method].whole_model, allocation != "uniform", shape is not None)
                if sum(special) <= 1:
                    fitting = sorted(s for s in sparsities if s > 0 and (shape is None or abs(s - shape.sparsity) < 1e-6))
                    found += [Variant(method, allocation, pattern, float(one)) for one in fitting]
    _check(found, methods, allocations, patterns, sparsities)
    return found


def rounded(pruned: list[Variant], bits: Sequence[int], rounders: Sequence[str], sparsities: Sequence[float]) -> list[Variant]:
    """List what is rounded to ``bits`` bits, at falling bits: the dense model, then which of ``pruned`` have one of ``sparsities``."""
    starts = [Variant(ROUNDED, "uniform", "unstructured", 0.0), *(v for v in pruned if v.pruned and v.sparsity in sparsities)]
    ways = [{"rounder": rounder, "bits": one} for rounder in rounders for one in sorted(bits, reverse=True)]
    return [start._replace(**way) for start in starts for way in ways]


def retrained(pruned: list[Variant], recoveries: Sequence[str], starts: Sequence[str], losses: Sequence[str]) -> list[Variant]:
    """List what is retrained, as controlled as it can be.

    Whatever else is asked for, the dense model is retrained, and every pruned one with its zeros kept.

    Args:
        pruned: The variants to retrain; the dense one is passed over.
        recoveries: How; names of ``training.recoveries.RECOVERIES``.
        starts: What those that move zeros begin from: 'pruned', 'dense' or both.
        losses: What is learned from; names of ``training.recoveries.LOSSES``.
    """
    begin = [variant for variant in pruned if variant.pruned]
    found = [Variant(RETRAINED, "uniform", "unstructured", 0.0, recovery="masked")]
    moving = [how for how in recoveries if how != "masked"]
    for variant in begin:  # those that start from the same pruned model follow each other
        found += [variant._replace(recovery=how) for how in ["masked", *(moving if "pruned" in starts else [])]]
    shapes = dict.fromkeys((variant.pattern, variant.sparsity) for variant in begin if "dense" in starts)
    found += [Variant(RETRAINED, "uniform", *shape, recovery=how) for how in moving for shape in shapes]
    return [variant._replace(loss=loss) for variant in found for loss in losses]


def _check(found: list[Variant], methods, allocations, patterns, sparsities) -> None:
    for pattern in patterns:
        shape = Pattern.parse(pattern)
        if shape and not any(abs(s - shape.sparsity) < 1e-6 for s in sparsities):
            raise ValueError(
                f"pattern: given {pattern!r}, which keeps {shape.kept} of every {shape.group}, a sparsity of {shape.sparsity:g}, with"
                f" sparsities {sparsities}; add {shape.sparsity:g} to them"
            )
    for key, values, field in [("methods", methods, "method"), ("allocation", allocations, "allocation"), ("pattern", patterns, "pattern")]:
        for value in values:
            if any(sparsities) and not any(getattr(v, field) == value for v in found[1:]):
                raise ValueError(
                    f"{key}: given {value!r}, which is incompatible with everything else in the profile; N:M needs allocation: uniform,"
                    " magnitude-global needs allocation: uniform and pattern: unstructured"
                )
    for sparsity in sparsities:
        if sparsity and not any(v.sparsity == sparsity for v in found):
            raise ValueError(
                f"sparsities: given {sparsity:g}, which pattern {' and '.join(patterns)} contradicts;"
                " drop it, or add 'unstructured' to pattern"
            )
