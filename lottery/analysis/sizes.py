"""Quality against bytes, as values: what a variant takes in a file, and which one predicts best with as few."""

import math
from dataclasses import dataclass, field

import pandas as pd

from lottery.analysis.comparison import bits_ratio
from lottery.experiments.records import Record

COLUMNS = ["model", "method", "sparsity", "bits", "stored", "bits_per_byte", "front"]


def sizes(data: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each variant: its bytes in a file, bits per byte of text, and whether it lies on the Pareto front.

    Zeros are stored in the sparse-bitmask format and rounded weights as packed integers with their scales; embedding, head and norms count.
    The front uses bits per byte and not perplexity, so that models with different tokenizers compare. A variant is on the front if no other
    with at most as many bytes predicts the text as well or better. What was not stored is left out.
    """
    found = data[data["bits_per_byte"].map(math.isfinite) & data["stored"].notna()].copy()
    found["stored"] = found["stored"].astype(int)
    found = found.sort_values(["stored", "bits_per_byte"], ignore_index=True)
    best = found["bits_per_byte"].cummin()
    found["front"] = (found["bits_per_byte"] == best) & ~found["bits_per_byte"].duplicated() & (best.shift(fill_value=math.inf) > best)
    return found


@dataclass(frozen=True)
class BestAtSize:
    """A variant that no other with as few bytes betters.

    Attributes:
        model: The model.
        variant: What the variant is called, such as 'magnitude 50%'.
        stored: Bytes in a file.
        beaten: The dense models that it was pruned or rounded down to the size of, or below, and that predict the text worse: by the
            interval of ``bits_ratio``, widened for the variants of the front that could.
    """

    model: str
    variant: str
    stored: int
    beaten: list[str] = field(default_factory=list)


def best_at_sizes(data: pd.DataFrame, records: list[Record]) -> list[BestAtSize]:
    """Return the Pareto front of the variants whose texts are coherent, from the fewest bytes up.

    What a ticket must beat is a dense model of the size that a larger model was brought down to. A model that is smaller than it already
    while dense proves nothing by pruning.

    Args:
        data: What is compared, as ``frame`` makes it.
        records: Its records.

    Returns:
        The front; nothing where fewer than two dense models are measured.
    """
    found = sizes(data[(data["method"] == "dense") | data["coherent"].astype(bool)])
    dense = found[found["method"] == "dense"]
    if dense["model"].nunique() < 2:
        return []
    front, by_key = found[found["front"]], {(record.model, record.request.key): record for record in records}
    reached = {index: _brought_down_to(row, dense) for index, row in front.iterrows()}
    pairs = sum(map(len, reached.values()))

    def beats(row: pd.Series, model: pd.Series) -> bool:
        return bits_ratio(by_key[model["model"], model["key"]], by_key[row["model"], row["key"]], pairs).low > 1

    return [
        BestAtSize(row["model"], row["title"], row["stored"], [model["model"] for model in reached[index] if beats(row, model)])
        for index, row in front.iterrows()
    ]


def _brought_down_to(row: pd.Series, dense: pd.DataFrame) -> list[pd.Series]:
    """Return the dense models, as rows of ``dense``, that a variant was pruned or rounded down to the size of."""
    if row["method"] == "dense":
        return []
    whole = dense.loc[dense["model"] == row["model"], "stored"].max()
    return [model for _, model in dense[(dense["stored"] >= row["stored"]) & (dense["stored"] < whole)].iterrows()]


WAYS = ("pruned", "rounded", "pruned and rounded")


def with_layer_share(data: pd.DataFrame) -> pd.DataFrame:
    """Return the variants whose bytes are known, with two more columns.

    ``layer_share`` is the bytes of the linear layers inside the blocks, as a share of what they take dense; ``way`` is one of ``WAYS``, and
    empty for the dense model.
    """
    found = data[data["stored"].notna()].copy()
    whole = found["model"].map(found[found["method"] == "dense"].set_index("model")["stored"]).astype(float)
    dense_layers = whole * found["prunable_parameters"] / found["parameters"]
    found["layer_share"] = 1 - (whole - found["stored"]) / dense_layers
    pruned, rounded = found["sparsity"] > 0, found["bits"].notna()
    found["way"] = [WAYS[2] if p and r else WAYS[1] if r else WAYS[0] if p else "" for p, r in zip(pruned, rounded, strict=True)]
    return found
