"""What an allocation over the blocks gains: the same method at the same sparsity, allocated and uniform."""

import math
from dataclasses import dataclass

import pandas as pd

from lottery.analysis.comparison import bits_ratio
from lottery.experiments.records import Record


@dataclass(frozen=True)
class Gain:
    """How an allocation does beside the uniform one, on one model.

    Attributes:
        model: The model.
        allocation: The allocation.
        pairs: A row for each method, pattern and sparsity that was measured both ways: ``method``, ``sparsity``, and ``ratio``, bits per
            byte of the allocated variant as a multiple of the uniform one's, with the 95% interval from ``ratio_low`` to ``ratio_high``.
            It is paired over windows and widened for all pairs of the model and allocation (``comparison.widened``); its ends are not
            numbers where there are too few windows. ``blind`` says whether both predict worse than token frequencies alone, so that a gain
            means nothing.
    """

    model: str
    allocation: str
    pairs: pd.DataFrame

    @property
    def fewer(self) -> dict[str, list[float]]:
        """For each method the sparsities at which the allocated variant needs fewer bits."""
        return _by_method(self._seeing[self._seeing["ratio_high"] < 1])

    @property
    def more(self) -> dict[str, list[float]]:
        """For each method the sparsities at which it needs more."""
        return _by_method(self._seeing[self._seeing["ratio_low"] > 1])

    @property
    def undecided(self) -> int:
        """In how many pairs the two cannot be told apart."""
        return int(((self._seeing["ratio_low"] <= 1) & (self._seeing["ratio_high"] >= 1)).sum())

    @property
    def blind(self) -> int:
        """In how many pairs both predict worse than token frequencies alone."""
        return int(self.pairs["blind"].sum())

    @property
    def _seeing(self) -> pd.DataFrame:
        return self.pairs[~self.pairs["blind"]]

    @property
    def has_interval(self) -> bool:
        return bool(self.pairs["ratio_low"].notna().any())


def gains(records: list[Record]) -> list[Gain]:
    """Return what each allocation gains on each model, as far as the same was measured with the uniform one too."""
    pruned = [record for record in records if record.request.sparsity]
    floors = {record.model: record.result.unigram_bits_per_byte for record in records if record.request.method == "dense"}
    uniform = {_asked(record): record for record in pruned if record.request.allocation == "uniform"}
    found: dict[tuple[str, str], list[Record]] = {}
    for record in pruned:
        if record.request.allocation != "uniform" and _asked(record) in uniform:
            found.setdefault((record.model, record.request.allocation), []).append(record)
    return [
        Gain(*key, pd.DataFrame([_pair(one, uniform[_asked(one)], len(own), floors.get(one.model, math.nan)) for one in own]))
        for key, own in found.items()
    ]


def _asked(record: Record) -> tuple:
    """Return what was asked of a record, but for its allocation."""
    return record.model, record.request.variant._replace(allocation="uniform")


def _pair(record: Record, uniform: Record, comparisons: int, floor: float) -> dict:
    ratio = bits_ratio(record, uniform, comparisons)
    return {
        "method": uniform.request.variant.label,
        "sparsity": record.request.sparsity,
        "ratio": ratio.ratio,
        "ratio_low": ratio.low,
        "ratio_high": ratio.high,
        "blind": min(record.result.bits_per_byte, uniform.result.bits_per_byte) > floor,
    }


def _by_method(pairs: pd.DataFrame) -> dict[str, list[float]]:
    return {method: sorted(own["sparsity"]) for method, own in pairs.groupby("method", sort=False)}
