"""What a profile can ask for: methods, allocations, patterns and sparsities, and which of them go together."""

from collections.abc import Sequence
from typing import NamedTuple

from lottery.common.format import NBSP, percent
from lottery.pruning.catalogue import ALLOCATIONS, METHODS
from lottery.pruning.pattern import Pattern
from lottery.pruning.rounding import ROUNDERS

ROUNDED = "rounded"  # the method of a variant that is rounded and not pruned


class Variant(NamedTuple):
    """One way to prune a model, to round it, or both.

    The dense model is the variant 'dense' at sparsity 0. ``rounder`` names how weights are rounded, to ``bits`` bits each; ``None`` leaves
    them as they are.
    """

    method: str
    allocation: str
    pattern: str
    sparsity: float
    rounder: str | None = None
    bits: int | None = None

    @property
    def label(self) -> str:
        """The method and whatever is not the default: 'wanda', 'wanda + owl', 'wanda 2:4', 'wanda + rtn 4 bit', 'rtn 4 bit'."""
        if self.method == ROUNDED:
            return self.rounding
        allocation = f" + {self.allocation}" if self.allocation != "uniform" else ""
        pattern = f" {self.pattern}" if self.pattern != "unstructured" else ""
        return self.method + allocation + pattern + (f" + {self.rounding}" if self.bits else "")

    @property
    def rounding(self) -> str:
        """How weights are rounded, such as 'rtn 4 bit'; empty where they are not."""
        return f"{self.rounder} {self.bits} bit" if self.bits else ""

    @property
    def title(self) -> str:
        """What a person calls the variant, on one line: 'wanda 50%', 'sparsegpt 2:4', 'ria + owl 70%', 'wanda 50% + rtn 4 bit', 'dense'."""
        if not self.sparsity:
            return self.label.replace(" ", NBSP)
        pruned = self._replace(rounder=None, bits=None).label + ("" if self.pattern != "unstructured" else f" {percent(self.sparsity)}")
        return (pruned + (f" + {self.rounding}" if self.bits else "")).replace(" ", NBSP)

    @property
    def pruned(self) -> bool:
        return self.sparsity > 0

    @property
    def calibrated(self) -> bool:
        """Whether it needs calibration data."""
        if self.rounder and ROUNDERS[self.rounder].calibrated:
            return True
        if not self.pruned:
            return False
        return METHODS[self.method].needs != "nothing" or ALLOCATIONS[self.allocation].needs != "nothing"


DENSE = Variant("dense", "uniform", "unstructured", 0.0)


def variants(
    methods: list[str],
    allocations: list[str],
    patterns: list[str],
    sparsities: list[float],
    rounding: Sequence[int] = (),
    rounders: Sequence[str] = ("rtn",),
    rounding_sparsities: Sequence[float] = (),
) -> list[Variant]:
    """List the dense model, then every combination that makes sense, at rising sparsity; then what is rounded, at falling bits.

    N:M sets the sparsity of every layer, so it goes only with the uniform allocation and the sparsity 1 - N/M. A method over the whole
    model allocates the sparsity itself, so it goes with neither N:M nor another allocation.

    Args:
        methods: Names of methods.
        allocations: Names of allocations.
        patterns: Patterns, such as "unstructured" or "2:4".
        sparsities: Target sparsities; 0 is the dense model.
        rounding: Bits to round the dense model to.
        rounders: How; names of ``ROUNDERS``.
        rounding_sparsities: Sparsities whose variants are rounded, too.

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
                    fitting = sorted(s for s in sparsities if s > 0 and (shape is None or abs(s - shape.sparsity) < 1e-9))
                    found += [Variant(method, allocation, pattern, float(one)) for one in fitting]
    _check(found, methods, allocations, patterns, sparsities)
    starts = [Variant(ROUNDED, "uniform", "unstructured", 0.0), *(v for v in found if v.pruned and v.sparsity in rounding_sparsities)]
    ways = [{"rounder": rounder, "bits": bits} for rounder in rounders for bits in sorted(rounding, reverse=True)]
    return found + [start._replace(**way) for start in starts for way in ways]


def _check(found: list[Variant], methods, allocations, patterns, sparsities) -> None:
    for pattern in patterns:
        shape = Pattern.parse(pattern)
        if shape and not any(abs(s - shape.sparsity) < 1e-9 for s in sparsities):
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
