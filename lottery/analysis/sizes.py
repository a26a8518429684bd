"""Quality against effective size, as values: the weights that pruning leaves, and which variant is best with as many."""

import math
from dataclasses import dataclass, field

import pandas as pd

from lottery.experiments.records import title

COLUMNS = ["model", "method", "sparsity", "nonzero", "bits_per_byte", "front"]


def sizes(data: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each variant: the nonzero weights of the whole model, bits per byte, and whether it lies on the Pareto front.

    The front uses bits per byte and not perplexity, so that models with different tokenizers compare. A variant is on the front if no other
    with at most as many nonzero weights predicts the text as well or better.
    """
    found = data[data["bits_per_byte"].map(math.isfinite)].copy()
    found["nonzero"] = ((1 - found["sparsity_model"]) * found["parameters"]).round().astype(int)
    found = found.sort_values(["nonzero", "bits_per_byte"], ignore_index=True)
    best = found["bits_per_byte"].cummin()
    found["front"] = (found["bits_per_byte"] == best) & ~found["bits_per_byte"].duplicated() & (best.shift(fill_value=math.inf) > best)
    return found


@dataclass(frozen=True)
class BestAtSize:
    """A variant that no other with as few weights betters.

    Attributes:
        model: The model.
        variant: What the variant is called, such as 'magnitude 50%'.
        nonzero: How many weights of the whole model are not zero.
        beaten: The dense models that it was pruned down to the size of, or below, and that predict the text worse.
    """

    model: str
    variant: str
    nonzero: int
    beaten: list[str] = field(default_factory=list)


def best_at_sizes(data: pd.DataFrame) -> list[BestAtSize]:
    """Return the Pareto front of the variants whose texts are coherent, from the fewest weights up.

    What a ticket must beat is a dense model of the size that a larger model was pruned down to. A model that is smaller than it already
    while dense proves nothing by pruning.

    Returns:
        The front; nothing where fewer than two dense models are measured.
    """
    found = sizes(data[(data["method"] == "dense") | data["coherent"].astype(bool)])
    dense = found[found["method"] == "dense"]
    if dense["model"].nunique() < 2:
        return []
    return [
        BestAtSize(
            row["model"], title(row["method"], row["base_method"], row["pattern"], row["sparsity"]), row["nonzero"], _beaten(row, dense)
        )
        for _, row in found[found["front"]].iterrows()
    ]


def _beaten(row: pd.Series, dense: pd.DataFrame) -> list[str]:
    """Return the dense models that a variant was pruned down to the size of and beats."""
    if row["method"] == "dense":
        return []
    unpruned = dense.loc[dense["model"] == row["model"], "nonzero"].max()
    between = (dense["nonzero"] >= row["nonzero"]) & (dense["nonzero"] < unpruned)
    return list(dense.loc[between & (dense["bits_per_byte"] > row["bits_per_byte"]), "model"].unique())
