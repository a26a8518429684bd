"""What others have published on pruned models, beside what was measured here.

``published.csv`` holds each figure with its protocol, its source, and whether that is the primary one.
"""

import math
from pathlib import Path

import pandas as pd

from lottery.common.format import number, percent
from lottery.experiments import protocols
from lottery.experiments.protocols import LLAMA_CPP
from lottery.experiments.records import Record
from lottery.report.markdown import markdown, table
from lottery.report.sections.protocols import change

WIKITEXT = "wikitext-2-raw"
STANDARD = "2048"  # the whole test in windows of 2048 tokens, as the file of published figures has it
PROTOCOLS = {"4096": "windows of 4,096", "llama.cpp ctx512 half-window": LLAMA_CPP}  # of that file: their names among those measured here
SAME = 0.01  # relative: what is nearer counts as reproduced
NEAR = 0.05  # how far a change may lie from a published one that it is to explain
TEAM = "ROSIE team"  # whose first table this study measures again


def figures() -> pd.DataFrame:
    """Return all published figures: model, method, pattern, perplexity, protocol, source, standing."""
    return pd.read_csv(Path(__file__).with_name("published.csv"))


def name_of(source: str) -> str:
    """Return a checkpoint's own name, without its owner, its revision, or the wheel that it came in."""
    return source.split("@")[0].split("/")[-1].split("#")[0]


def beside(records: list[Record], text: str) -> pd.DataFrame:
    """Return the published figures on models measured here, with the measured one; none for stand-ins that only share a name.

    A figure counts as measured where checkpoint, method and share are the same and the text is WikiText-2. The protocol is named and may
    still differ.
    """
    published = figures()
    measured, families = {}, {}
    for record in records:
        name = name_of(record.source)
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
    """Return the published figures beside the measured ones as a table, and what there is to say about the difference."""
    found = beside(records, text)
    if found.empty:
        return "None of these models is among those whose published figures are listed in `lottery/report/sections/published.csv`."
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
    return markdown(
        table(rows, "Published|Here", "Perplexities on WikiText-2 as published, and as measured here."),
        _of_the_difference(found, records),
        _of_the_first_table(),
        _of_methods(),
    ).data


def by_protocol(measured: dict[str, pd.DataFrame]) -> str:
    """Compare published dense figures by other protocols with those of the full test in windows of 2048.

    Beside each stands what the same protocol changes in the models that were scored by it here. Where a figure does not say its own
    protocol, the text says which one may be behind it.

    Args:
        measured: For each model scored here, its frame of protocols.
    """
    dense = figures().query("method == 'dense'")
    rows, said = [], []
    for model, own in dense.groupby("model", sort=False):
        standard = own.loc[own["protocol"] == STANDARD, "perplexity"]
        for row in own[own["protocol"] != STANDARD].itertuples() if len(standard) else ():
            share, name = row.perplexity / standard.iloc[0] - 1, PROTOCOLS.get(row.protocol.split(";")[0])
            here = [(m, protocol, value) for m, data in measured.items() for protocol, value in _changes(data) if name in (None, protocol)]
            if not here:
                continue
            near = min(here, key=lambda found: abs(found[2] - share))
            shown = here if name else [near]
            rows.append(
                {
                    "Published": f"{model}, {number(row.perplexity)}",
                    "Protocol": row.protocol,
                    "Against 2048": change(share),
                    "Here": "; ".join(f"{change(value)} ({m}{'' if name else ', ' + protocol})" for m, protocol, value in shown),
                    "Source": row.source,
                }
            )
            if not name:
                least = "comes near is" if abs(near[2] - share) <= NEAR else "comes nearest, and is not near, is"
                said.append(
                    f"{model}'s {number(row.perplexity)} is {change(share)} against the full test's {number(standard.iloc[0])}, and its"
                    f" source does not say of which part. What {least} {near[1]}, {change(near[2])} on {near[0]}."
                )
    caption = "Published dense perplexities by another protocol than the full test's, and what that protocol changes here."
    return markdown(table(rows, "Against 2048", caption), " ".join(said)).data if rows else ""


def reproduced(name: str, data: pd.DataFrame) -> str:
    """Say which protocols reproduce what is published of a dense model, in a sentence a figure.

    A name that goes on, such as that of an instructed or rounded version, is a relative: its figures need not agree. The figures of a
    stretch are those expected on the whole text.

    Args:
        name: The checkpoint's own name, such as 'Qwen2.5-0.5B'.
        data: Its frame of protocols.
    """
    measured = data[(data["skipped"] == "") & data["expected"].notna()]
    said = []
    for row in figures().query("method == 'dense'").itertuples():
        if not name.startswith(row.model) or measured.empty:
            continue
        apart = (measured["expected"] / row.perplexity - 1).abs()
        close = list(measured.loc[apart <= SAME, "protocol"])
        nearest = measured.loc[apart.idxmin()]
        whose = row.model if name == row.model else f"{row.model}, of which {name} is a version"
        again = (
            f"within {percent(SAME)} of it: {', '.join(close)}"
            if close
            else (f"no protocol here reproduces it; nearest is {nearest['protocol']} with {number(nearest['expected'])}")
        )
        said.append(f"Published of {whose}: {number(row.perplexity)} ({row.source}; protocol: {row.protocol}); {again}.")
    return " ".join(said) or f"No dense perplexity of {name} is listed in `lottery/report/sections/published.csv`."


def _changes(data: pd.DataFrame) -> list[tuple[str, float]]:
    """Return each other protocol's change of the perplexity, where it was measured."""
    other = data[(data["skipped"] == "") & (data["protocol"] != protocols.STANDARD) & data["change"].map(math.isfinite)]
    return list(zip(other["protocol"], other["change"], strict=True))


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
    return f"Measured here against published: {said}. With an identical protocol, differences of about 1% are normal."


def _of_the_first_table() -> str:
    """Say what the team's first table gave for its dense model, beside the figure that the full test gives elsewhere."""
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
    """Say how far magnitude lies from the best published way at the same share, per model."""
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
