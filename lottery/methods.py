"""What can be asked for: pruning methods, allocations of the sparsity over the blocks, and patterns. Adding one is one line here.

Names and facts only, so that a profile is checked and a report written without loading torch; ``pkgutil.resolve_name`` finds the
function when it is needed.
"""

import re
from typing import Literal, NamedTuple


class Method(NamedTuple):
    """A pruning method: where its function is, what it needs to know of a layer's inputs, and what a report says of it."""

    function: str
    needs: Literal["nothing", "squares", "products"]
    says: str
    source: str
    whole_model: bool = False  # the function is given all layers at once and shares the sparsity out itself


METHODS = {
    "magnitude": Method(
        "lottery.pruning.magnitude:magnitude_", "nothing", "prunes the smallest weights of each layer", "Han et al. 2015, arXiv 1506.02626"
    ),
    "magnitude-global": Method(
        "lottery.pruning.magnitude:magnitude_global_", "nothing", "prunes the smallest weights of all layers together",
        "Han et al. 2015, arXiv 1506.02626", whole_model=True,
    ),
    "random": Method("lottery.pruning.control:random_", "nothing", "prunes weights at random, as a control", "seeded draw"),
    "wanda": Method(
        "lottery.pruning.wanda:wanda_", "squares", "prunes the lowest products of weight and input norm in each output row",
        "Sun et al. 2023, arXiv 2306.11695"
    ),
    "ria": Method(
        "lottery.pruning.ria:ria_", "squares",
        "prunes the relatively smallest weights of each layer: fraction of the row plus of the column, times the root of the input norm",
        "Zhang et al., ICLR 2024",
    ),
    "sparsegpt": Method(
        "lottery.pruning.sparsegpt:sparsegpt_", "products",
        "prunes column by column and updates the remaining weights to make up for the error",
        "Frantar and Alistarh 2023, arXiv 2301.00774",
    ),
}  # fmt: skip


class Allocation(NamedTuple):
    """A way to share the sparsity out over the blocks."""

    function: str | None
    needs: Literal["nothing", "squares"]
    says: str
    source: str


ALLOCATIONS = {
    "uniform": Allocation(None, "nothing", "gives every block the same sparsity", ""),
    "owl": Allocation(
        "lottery.pruning.owl:owl", "squares", "keeps more weights in blocks with more outliers", "Yin et al. 2023, arXiv 2310.05175",
    ),
    "alphapruning": Allocation(
        "lottery.pruning.alphapruning:alphapruning", "nothing", "keeps more weights in blocks whose spectrum has a heavier tail",
        "Lu et al. 2024, arXiv 2410.10912",
    ),
}  # fmt: skip


class Pattern(NamedTuple):
    """N:M: of every ``group`` neighbouring inputs of a row, ``kept`` stay. N counts what stays, as in NVIDIA's 2:4 and in the papers on
    training such networks (arXiv 2102.04010); some scripts count what goes, which is the same for 2:4 and 4:8 only."""

    kept: int
    group: int

    @classmethod
    def parse(cls, text: str) -> "Pattern | None":
        """A pattern from "2:4"; ``None`` for "unstructured". **Raises** ``ValueError`` for anything else."""
        if text == "unstructured":
            return None
        found = re.fullmatch(r"([1-9]\d*):([1-9]\d*)", text)
        if not found or int(found[1]) >= int(found[2]):
            raise ValueError(f"{text!r} is no pattern")
        return cls(int(found[1]), int(found[2]))

    @property
    def zeros(self) -> int:
        return self.group - self.kept

    @property
    def share(self) -> float:
        """Of the weights that go."""
        return self.zeros / self.group


class Variant(NamedTuple):
    """One way to prune a model; the dense model is the variant 'dense' at sparsity 0."""

    method: str
    allocation: str
    pattern: str
    sparsity: float

    @property
    def label(self) -> str:
        """The method with what is not usual about it: 'wanda', 'wanda + owl', 'wanda 2:4'."""
        allocation = f" + {self.allocation}" if self.allocation != "uniform" else ""
        pattern = f" {self.pattern}" if self.pattern != "unstructured" else ""
        return self.method + allocation + pattern

    @property
    def calibrated(self) -> bool:
        """Whether it needs calibration data."""
        if self.method == "dense":
            return False
        return METHODS[self.method].needs != "nothing" or ALLOCATIONS[self.allocation].needs != "nothing"


DENSE = Variant("dense", "uniform", "unstructured", 0.0)


def variants(methods: list[str], allocations: list[str], patterns: list[str], sparsities: list[float]) -> list[Variant]:
    """The dense model, then every combination that makes sense, at rising sparsity.

    N:M sets the share of every layer, so it goes with the uniform allocation and with the sparsity 1 - N/M only; a method over the whole
    model shares the sparsity out itself, so it goes with neither.

    **Raises** ``ValueError``, in one line, where something that was asked for makes sense with nothing else that was.
    """
    found = [DENSE]
    for method in methods:
        for allocation in allocations:
            for pattern in patterns:
                shape = Pattern.parse(pattern)
                special = (METHODS[method].whole_model, allocation != "uniform", shape is not None)
                if sum(special) <= 1:
                    shares = sorted(s for s in sparsities if s > 0 and (shape is None or abs(s - shape.share) < 1e-9))
                    found += [Variant(method, allocation, pattern, float(share)) for share in shares]
    _check(found, methods, allocations, patterns, sparsities)
    return found


def _check(found: list[Variant], methods, allocations, patterns, sparsities) -> None:
    for pattern in patterns:
        shape = Pattern.parse(pattern)
        if shape and not any(abs(s - shape.share) < 1e-9 for s in sparsities):
            raise ValueError(
                f"pattern: given {pattern!r}, which keeps {shape.kept} of every {shape.group}, a sparsity of {shape.share:g}, with"
                f" sparsities {sparsities}; add {shape.share:g} to them"
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
