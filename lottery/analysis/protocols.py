"""The perplexities of one dense model by protocol, as a data frame."""

import math
from typing import NamedTuple

import pandas as pd

from lottery.evaluation.bootstrap import exp
from lottery.experiments.protocols.records import STANDARD, WHOLE, ProtocolRecord, perplexity_of

PARTS = {"the first window alone": 1, "the first 12 windows": 12, "the first 40 windows": 40}


def frame(records: list[ProtocolRecord]) -> pd.DataFrame:
    """Return a row for each protocol: its perplexity, per token and per word of the text, and how it compares with the standard one.

    There are also rows for parts of the standard protocol's windows and for the mean of their perplexities, which need no measurement of
    their own. ``expected`` is what the protocol should give on the whole text, if it changes as much there.
    """
    rows = []
    for record in records:
        protocol, result = record.request.protocol, record.result
        name = f"{WHOLE}, {len(result.windows)} windows" if protocol.whole else protocol.name
        rows.append(_row(name, protocol.used_by, result.windows, result.words / max(result.tokens, 1), result.skipped))
        if protocol.name != STANDARD or result.skipped:
            continue
        for name, count in PARTS.items():
            if count < len(result.windows):
                rows.append(_row(name, "whoever is in a hurry", result.windows[:count]))
        singles = [perplexity_of([window]) for window in result.windows]
        mean = sum(singles) / len(singles)
        rows.append({**_row("mean of the windows' perplexities", "scripts that average last", result.windows), "perplexity": mean})
    found = pd.DataFrame(rows, columns=["protocol", "used_by", "perplexity", "per_word", "windows", "tokens", "skipped"])
    standard = found.loc[found["protocol"] == STANDARD, "perplexity"]
    found["change"] = found["perplexity"] / standard.iloc[0] - 1 if len(standard) else math.nan
    whole = found["protocol"].str.startswith(WHOLE)
    longer = (found.loc[whole, "perplexity"] / standard.iloc[0]).iloc[0] if whole.any() and len(standard) else 1.0
    found["expected"] = found["perplexity"].where(whole | found["protocol"].isin(PARTS), found["perplexity"] * longer)
    return found


class Extreme(NamedTuple):
    """The lowest or the highest perplexity of a model, and the protocol that gave it."""

    protocol: str
    perplexity: float


def extremes(data: pd.DataFrame) -> tuple[Extreme, Extreme] | None:
    """Return the lowest and the highest perplexity in a frame of protocols; ``None`` where nothing was measured."""
    measured = data[(data["skipped"] == "") & data["perplexity"].notna()]
    if measured.empty:
        return None
    ends = measured["perplexity"].idxmin(), measured["perplexity"].idxmax()
    low, high = (Extreme(*measured.loc[index, ["protocol", "perplexity"]]) for index in ends)
    return low, high


def _row(name: str, used_by: str, windows: list[tuple[float, int]], words_a_token: float = 0, skipped: str = "") -> dict:
    nats, tokens = sum(nats for nats, _ in windows), sum(count for _, count in windows)
    per_word = exp(nats / tokens / words_a_token) if words_a_token and tokens else math.nan
    return {
        "protocol": name, "used_by": used_by, "perplexity": perplexity_of(windows), "per_word": per_word, "windows": len(windows),
        "tokens": tokens, "skipped": skipped,
    }  # fmt: skip
