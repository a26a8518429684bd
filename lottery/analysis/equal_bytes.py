"""Who predicts the text best with as few bytes: what was pruned, what was rounded, both, or a smaller model that is dense."""

import math
from dataclasses import dataclass

import pandas as pd

from lottery.analysis.comparison import bits_ratio
from lottery.analysis.sizes import WAYS, with_layer_share
from lottery.experiments.records import Record

SMALLER = "a smaller dense model"

# At most so much of the bytes that the pruned layers take while dense. Each holds what goes by its name: 50% of zeros and 8 bits; 80% and
# 4 bits; 87%, 3 bits, and 50% in 4 bits; 90%, and 50% in 3 bits. Mask, scales and zero points keep all of these a little above it.
SHARES = {"half": 0.6, "a quarter": 0.3, "a fifth": 0.21, "a sixth": 0.175}


@dataclass(frozen=True)
class Contender:
    """What predicts best with few enough bytes, of one way to save them.

    Attributes:
        way: One of ``sizes.WAYS``, or ``SMALLER``.
        variant: What it is called.
        factor: Its bits per byte as a multiple of the dense model's.
        low: The lower end of the 95% interval, widened for how many of this way have as few bytes: it is the best of them on the text that
            is scored. Not a number where there are too few windows.
        high: The upper end.
        texts: The verdict on its texts; ``None`` where none were drawn.
        layers: The bytes of its layers as a share of the dense ones'; not a number for a smaller model, which has other layers.
    """

    way: str
    variant: str
    factor: float
    low: float
    high: float
    texts: str | None
    layers: float


@dataclass(frozen=True)
class AtShare:
    """Who predicts the text best with a share of the bytes.

    Attributes:
        share: One of ``SHARES``.
        contenders: The best of each way that has any, the best of all first.
        ratio: The second one's bits per byte as a multiple of the first one's, by ``bits_ratio``; not a number without a second.
        low: The lower end of its 95% interval, widened for ``pairs``; not a number where there are too few windows.
        high: The upper end.
        pairs: How many pairs of these two ways have as few bytes: the two are the best of them on the text that is scored.
        beats_pruning: Whether the first predicts better than the best of what is only pruned, by an interval of their own.
    """

    share: str
    contenders: list[Contender]
    ratio: float = math.nan
    low: float = math.nan
    high: float = math.nan
    pairs: int = 1
    beats_pruning: bool = False

    @property
    def decided(self) -> bool:
        """Whether the first predicts better than the second, or stands alone; never without an interval."""
        return len(self.contenders) < 2 or self.low > 1


def at_equal_bytes(data: pd.DataFrame, records: list[Record]) -> dict[str, list[AtShare]]:
    """Return, for each model that was rounded too, who predicts best at each of ``SHARES``.

    Bytes are those of the linear layers inside the blocks: all that is pruned or rounded. A small model's embedding would hide them. A
    smaller dense model may take as many bytes in its whole file as are left of the model's.

    Args:
        data: What is compared, as ``frame`` makes it.
        records: Its records.
    """
    found = with_layer_share(data)
    by_key = {(record.model, record.request.key): record for record in records}
    return {
        model: [at for name, most in SHARES.items() if (at := _at_share(name, most, rows, found[found["method"] == "dense"], by_key))]
        for model, rows in found.groupby("model", sort=False)
        if rows["bits"].notna().any() and (rows["method"] == "dense").any()
    }


def _at_share(name: str, most: float, rows: pd.DataFrame, dense: pd.DataFrame, by_key: dict[tuple[str, str], Record]) -> AtShare | None:
    own = rows[rows["method"] == "dense"].iloc[0]
    fitting = rows[(rows["way"] != "") & (rows["layer_share"] <= most)]
    layers = own["stored"] * own["prunable_parameters"] / own["parameters"]
    smaller = dense[dense["stored"] <= own["stored"] - (1 - most) * layers]
    fitting = pd.concat([fitting, smaller.assign(way=SMALLER, title=smaller["model"] + ", dense")])
    fitting = fitting.sort_values("bits_per_byte", kind="stable")
    best, ways = fitting.drop_duplicates("way"), fitting["way"].value_counts()
    if best.empty or not math.isfinite(best["bits_per_byte"].iloc[0]):
        return None
    found = [by_key[row["model"], row["key"]] for _, row in best.iterrows()]
    contenders = [
        Contender(
            row["way"],
            row["title"],
            *bits_ratio(record, by_key[own["model"], own["key"]], int(ways[row["way"]])),
            row["verdict"],
            math.nan if row["way"] == SMALLER else row["layer_share"],
        )
        for record, (_, row) in zip(found, best.iterrows(), strict=True)
    ]
    if len(found) < 2:
        return AtShare(name, contenders)

    first, *others = contenders
    pairs = [int(ways[first.way] * ways[one.way]) for one in others]
    beside_first = [bits_ratio(record, found[0], count) for record, count in zip(found[1:], pairs, strict=True)]
    behind = any(beside.low > 1 for one, beside in zip(others, beside_first, strict=True) if one.way == WAYS[0])
    return AtShare(name, contenders, *beside_first[0], pairs[0], behind)
