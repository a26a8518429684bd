"""Ways of pruning beside each other: methods, and allocations over the blocks."""

import pandas as pd

from lottery.analysis import findings
from lottery.analysis.allocations import Gain, gains
from lottery.common.format import NBSP, percent
from lottery.experiments.records import Record
from lottery.report import tables
from lottery.report.markdown import table
from lottery.report.sentences import sentences


def told(data: pd.DataFrame, records: list[Record]) -> list[str]:
    """Return who loses least at each sparsity, and all perplexities: a table a sparsity, or a single one where there is one model.

    Args:
        data: What was measured at the sparsities that the profile names.
        records: The records of it.
    """
    several, least = data["model"].nunique() > 1, findings.least_by_model(data, records)
    parts = [tables.by_method(data, level, least) for level in findings.levels(data)] if several else [tables.by_sparsity(data, least)]
    return [sentences("methods", found=findings.method_rankings(data, records)), *parts]


def cliffs(data: pd.DataFrame, records: list[Record]) -> dict[str, tuple[str, str]]:
    """Return where each unstructured way of pruning has its cliff: for each model a sentence that names the latest, and a table.

    Args:
        data: What was measured at the sparsities that the profile names.
        records: The records of it, and those that a bisection added.
    """
    by_way, found = {way: findings.scores(records, way) for way in findings.methods(data[data["pattern"] == "unstructured"])}, {}
    for model, rows in data.groupby("model", sort=False):
        if ways := {way: scores[model] for way, scores in by_way.items() if model in scores}:
            found[model] = sentences("latest", found=findings.latest_crossings(ways)), tables.cliffs(rows, ways)
    return found


def allocations(records: list[Record]) -> list[str]:
    """Return what each allocation gains over the uniform one: a sentence and a table for each model and allocation."""
    return [part for gain in gains(records) for part in (sentences("allocations", gain=gain), _beside_uniform(gain))]


def _beside_uniform(gain: Gain) -> str:
    shown = gain.pairs.assign(cell=[tables.within(row, "ratio") for _, row in gain.pairs.iterrows()]).sort_values("sparsity", kind="stable")
    rows = []
    for method in gain.pairs["method"].unique():
        own = shown[shown["method"] == method]
        cells = {percent(level): "" for level in shown["sparsity"].unique()}
        rows.append({"Method": method.replace(" ", NBSP), **cells, **dict(zip(map(percent, own["sparsity"]), own["cell"], strict=True))})
    interval = f" 95% intervals allow for all {len(gain.pairs)} pairs." if gain.has_interval and len(gain.pairs) > 1 else ""
    caption = f"{gain.model}: bits per byte with {gain.allocation}, as multiples of those with the uniform allocation.{interval}"
    return table(rows, caption)
