"""The registries of pruning methods and of allocations of the sparsity over the blocks.

To add one, write a file in ``methods/`` or ``allocations/`` whose function carries the decorator; ``catalogue`` finds it. Profiles, the
method section of the report and ``docs/profiles.md`` take its name and its words from here.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple


class Method(NamedTuple):
    """A pruning method: ``function(weight, spec, activations)`` prunes one layer in place.

    With ``whole_model``, ``function(weights, sparsity)`` prunes all of them at once.
    """

    function: Callable
    needs: Literal["nothing", "norms", "hessian"]  # of a layer's inputs over the calibration data
    summary: str  # with the method as its subject
    source: str  # the paper
    whole_model: bool  # it allocates the sparsity itself
    version: int  # raised when its function begins to choose or update otherwise: its older records are then measured again

    @property
    def calibrated(self) -> bool:
        """Whether it needs calibration data."""
        return self.needs != "nothing"


class Allocation(NamedTuple):
    """An allocation: ``function(sparsity, measured, weights)`` returns the sparsity of each block.

    ``measured`` is one number per block, from ``measure(model, samples, device=, progress=)`` on the dense model, whatever the sparsity;
    ``weights`` counts the prunable weights of each block.
    """

    function: Callable
    measure: Callable | None  # None if nothing is measured
    calibrated: bool  # whether it needs calibration data
    summary: str
    source: str
    version: int  # as of a method


METHODS: dict[str, Method] = {}
ALLOCATIONS: dict[str, Allocation] = {}


def method(
    name: str,
    summary: str,
    source: str,
    *,
    needs: Literal["nothing", "norms", "hessian"] = "nothing",
    whole_model: bool = False,
    version: int = 1,
):
    """Register a pruning method."""

    def register(function: Callable) -> Callable:
        METHODS[name] = Method(function, needs, summary, source, whole_model, version)
        return function

    return register


def allocation(
    name: str,
    summary: str,
    source: str,
    *,
    calibrated: bool = False,
    measure: Callable | None = None,
    version: int = 1,
):
    """Register an allocation."""

    def register(function: Callable) -> Callable:
        ALLOCATIONS[name] = Allocation(function, measure, calibrated, summary, source, version)
        return function

    return register
