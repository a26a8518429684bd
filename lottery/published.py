"""What others have published on pruned models, beside what was measured here. ``published.csv`` holds each figure with its protocol,
its source, and whether that is the primary one."""

from pathlib import Path

import pandas as pd

from lottery.records import Record
from lottery.show import prose, table
from lottery.tables import number, percent

WIKITEXT = "wikitext-2-raw"
TEAM = "ROSIE team"  # whose first table this study measures again


def figures() -> pd.DataFrame:
    """All published figures: model, method, pattern, perplexity, protocol, source, standing."""
    return pd.read_csv(Path(__file__).with_name("published.csv"))


def beside(records: list[Record], text: str) -> pd.DataFrame:
    """The published figures on models that were measured here, with the measured one; none for stand-ins that share a name only.

    A figure counts as measured where checkpoint, method and share are the same and the text is WikiText-2; the protocol is named and may
    still differ.
    """
    published = figures()
    measured, families = {}, {}
    for record in records:
        name = record.source.split("@")[0].split("/")[-1]
        request = record.request
        share = "-" if request.method == "dense" else request.pattern if request.pattern != "unstructured" else percent(request.sparsity)
        method = request.method if request.allocation == "uniform" else f"{request.allocation}+{request.method}"
        if record.kind == "hub" and text == WIKITEXT:
            measured[name, method, share] = record.result.perplexity
        families[name.lower()] = name
    published["here"] = [measured.get((row.model, row.method, row.pattern)) for row in published.itertuples()]
    ours = published["model"].str.lower().str.replace("-v0.1", "").isin({name.replace("-v0.1", "") for name in families})
    return published[ours]


def told(records: list[Record], text: str) -> str:
    """The published figures beside the measured ones as a table, and what is to be said of the difference."""
    found = beside(records, text)
    if found.empty:
        return "None of these models is among those whose published figures are listed in `lottery/published.csv`."
    rows = [
        {
            "Model": row.model,
            "Pruned": "dense" if row.method == "dense" else f"{row.method} {row.pattern}",
            "Published": number(row.perplexity),
            "Here": number(row.here) if pd.notna(row.here) else "–",
            "Protocol": row.protocol,
            "Source": f"{row.source} ({row.standing})",
        }
        for row in found.itertuples()
    ]
    return prose(
        table(rows, "Published|Here", "Perplexities on WikiText-2 as published, and as measured here."),
        _of_the_difference(found, records),
        _of_the_first_table(),
        _of_methods(),
    ).data


def _of_the_difference(found: pd.DataFrame, records: list[Record]) -> str:
    here = found[found["here"].notna() & ~found["source"].str.contains(TEAM)]
    if here.empty:
        if all(record.kind == "stand-in" for record in records):
            return (
                "Nothing stands under *Here*, because stand-ins were measured: they share an architecture and a name with these models and"
                " nothing else."
            )
        return "Nothing stands under *Here*: no model was measured in a way that has a published figure."
    said = ", ".join(
        f"{row.model} {'dense' if row.method == 'dense' else f'{row.method} {row.pattern}'} {100 * (row.here / row.perplexity - 1):+.1f}%"
        for row in here.itertuples()
    )
    return f"Measured here against published: {said}. Where window, text and the part of the test that is scored are the same, 1% is usual."


def _of_the_first_table() -> str:
    """What the team's first table said of its dense model, beside the figure that the full test gives elsewhere."""
    data = figures()
    first = data[data["source"].str.contains(TEAM)]
    model = first["model"].iloc[0]
    dense = first.loc[first["method"] == "dense", "perplexity"].iloc[0]
    others = data[(data["model"] == model) & (data["method"] == "dense") & ~data["source"].str.contains(TEAM)]
    full = others[others["protocol"] == "2048"]["perplexity"].iloc[0]
    half = first.loc[first["pattern"] == "50%", "perplexity"].iloc[0]
    return (
        f"The first table on {model}, which this study measures again, gave its dense model {number(dense)}. The full test in windows of"
        f" 2048 tokens gives {number(full)} elsewhere, {100 * (full / dense - 1):.0f}% more; no full-test protocol gives {number(dense)},"
        f" part of the test may. Against {number(dense)} its 50% ({number(half)}) looks {number(half / dense)} times as bad as the"
        f" dense model, against {number(full)} only {number(half / full)} times. Its dense model ran on another GPU than the rest."
        " So each ratio in this report is to a dense model measured in the same run."
    )


def _of_methods() -> str:
    """How far magnitude lies from the best published way at the same share, per model."""
    data = figures()
    data = data[~data["source"].str.contains(TEAM)]
    said = []
    for (model, protocol, share), rows in data.groupby(["model", "protocol", "pattern"], sort=False):
        magnitude = rows.loc[rows["method"] == "magnitude", "perplexity"]
        if len(rows) < 3 or magnitude.empty or not share.endswith("%"):
            continue
        best = rows.loc[rows["perplexity"].idxmin()]
        said.append(
            f"{model} at {share} ({protocol} tokens): magnitude {number(magnitude.iloc[0])}, {best.method} {number(best.perplexity)}"
        )
    return f"How much depends on the way of pruning, as published: {'; '.join(said)}."
