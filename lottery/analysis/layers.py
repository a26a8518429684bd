"""Where the zeros are, as values: by layer, by kind of layer, by block."""

import re
from dataclasses import dataclass

import pandas as pd

from lottery.experiments.records import Record

UNEVEN = 0.005  # shares of zeros that differ by more between layers are no rounding


def zeros(records: list[Record]) -> pd.DataFrame:
    """Return a row for each layer of every pruned variant: block, kind (``self_attn.q_proj``), weights and share of zeros."""
    rows = []
    for record in records:
        if record.request.method == "dense":
            continue
        for name, share in record.result.sparsity_layers.items():
            block, kind = re.search(r"\.(\d+)\.(.+)$", name).groups()
            rows.append(
                {
                    "model": record.model,
                    "method": record.request.variant.label,
                    "base_method": record.request.method,
                    "allocation": record.request.allocation,
                    "pattern": record.request.pattern,
                    "sparsity": record.request.sparsity,
                    "block": int(block),
                    "kind": kind,
                    "weights": record.result.layer_weights[name],
                    "zeros": share,
                }
            )
    return pd.DataFrame(rows)


def uneven(data: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return one way of pruning for each uneven way of spreading zeros over layers, by its name, at the middle sparsity measured of it."""
    found = {}
    for (base, allocation, _), rows in data.groupby(["base_method", "allocation", "pattern"], sort=False) if len(data) else []:
        levels = sorted(rows["sparsity"].unique())
        middle = rows[rows["sparsity"] == levels[len(levels) // 2]]
        spread = middle.groupby("model")["zeros"].agg(lambda shares: shares.max() - shares.min()).max()
        spreading = base if allocation == "uniform" else allocation
        if spread > UNEVEN and spreading not in {name for name, _ in found}:
            found[spreading, middle["method"].iloc[0]] = middle
    return {method: rows for (_, method), rows in found.items()}


@dataclass(frozen=True)
class Extremes:
    """The kind of layer, or the block, that loses least and the one that loses most, over all models.

    Attributes:
        least: The one that loses least.
        low: The share of its weights that are zero.
        most: The one that loses most.
        high: The share of its weights that are zero.
    """

    least: str | int
    low: float
    most: str | int
    high: float


@dataclass(frozen=True)
class UnevenWay:
    """A way of pruning that does not take the same share from every layer.

    Attributes:
        method: What the way is called.
        sparsity: The sparsity that it is looked at.
        kinds: What it takes from kinds of layers; ``None`` where they hardly differ.
        blocks: What it takes from blocks; ``None`` where they hardly differ.
    """

    method: str
    sparsity: float
    kinds: Extremes | None
    blocks: Extremes | None


@dataclass(frozen=True)
class WhereZerosAre:
    """How the ways of pruning spread their zeros over layers.

    Attributes:
        even: The ways that take the same share from every layer.
        uneven: One way for each uneven way of spreading.
    """

    even: list[str]
    uneven: list[UnevenWay]


def where_zeros_are(data: pd.DataFrame) -> WhereZerosAre | None:
    """Return what even and uneven ways of pruning spare, from the frame of ``zeros``; ``None`` where nothing was pruned."""
    if data.empty:
        return None
    even = [str(method) for method, rows in data.groupby("method", sort=False) if not _is_uneven(rows)]
    ways = [
        UnevenWay(method, rows["sparsity"].iloc[0], _extremes(rows, "kind"), _extremes(rows, "block"))
        for method, rows in uneven(data).items()
    ]
    return WhereZerosAre(even, ways)


def _is_uneven(rows: pd.DataFrame) -> bool:
    spread = rows.groupby(["model", "sparsity"])["zeros"].agg(lambda shares: shares.max() - shares.min())
    return bool((spread > UNEVEN).any())


def _extremes(rows: pd.DataFrame, column: str) -> Extremes | None:
    """Return what loses least and what most over all models, of the kinds or blocks in a column; ``None`` where they hardly differ."""
    sums = rows.assign(lost=rows["zeros"] * rows["weights"]).groupby(column)[["lost", "weights"]].sum()
    shares = (sums["lost"] / sums["weights"]).sort_values()
    if shares.iloc[-1] - shares.iloc[0] <= UNEVEN:
        return None
    return Extremes(shares.index[0], shares.iloc[0], shares.index[-1], shares.iloc[-1])
