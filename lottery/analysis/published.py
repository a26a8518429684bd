"""What others have published on pruned models, beside what was measured here, as values.

``published.csv`` holds each figure with its protocol, its source, and whether that is the primary one.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from lottery.common.format import percent
from lottery.experiments.protocols import records as protocols
from lottery.experiments.protocols.records import LLAMA_CPP
from lottery.experiments.records import Record

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

    A figure counts as measured where checkpoint, method and share are the same and both are of the whole test in windows of 2048 tokens.
    """
    published = figures()
    measured, families = {}, {}
    for record in records:
        name = name_of(record.source)
        request = record.request
        share = "-" if request.method == "dense" else request.pattern if request.pattern != "unstructured" else percent(request.sparsity)
        method = request.method if request.allocation == "uniform" else f"{request.allocation}+{request.method}"
        if record.kind == "hub" and text == WIKITEXT and (request.seq_len, request.max_windows) == (int(STANDARD), None):
            measured[name, method, share] = record.result.perplexity
        families[name.lower()] = name
    published["here"] = [
        measured.get((row.model, row.method, row.pattern)) if _is_standard(row.protocol) else None for row in published.itertuples()
    ]
    ours = published["model"].str.lower().str.replace("-v0.1", "").isin({name.replace("-v0.1", "") for name in families})
    return published[ours]


def _is_standard(protocol: str) -> bool:
    """Return whether a published figure is of the whole test in windows of 2048 tokens, as far as its source says."""
    return protocol.startswith(STANDARD) and "first" not in protocol


def variant(method: str, pattern: str) -> str:
    """Return what a variant of the file of published figures is called."""
    return "dense" if method == "dense" else f"{method} {pattern}"


class Difference(NamedTuple):
    """How much higher the perplexity of a variant is here than published, relative to the published one."""

    model: str
    variant: str
    change: float


def differences(found: pd.DataFrame) -> list[Difference]:
    """Return the differences of what ``beside`` found; the first table's figures are no yardstick."""
    here = found[found["here"].notna() & ~found["source"].str.contains(TEAM)]
    return [Difference(row.model, variant(row.method, row.pattern), row.here / row.perplexity - 1) for row in here.itertuples()]


class FirstTable(NamedTuple):
    """Perplexities of the team's first table, with the figure that the full test gives its dense model elsewhere.

    Attributes:
        model: The model.
        dense: The dense model's, in the first table.
        half: That of the model pruned to 50%, in the first table.
        full: The dense model's by the full test, as others published it.
    """

    model: str
    dense: float
    half: float
    full: float


def first_table() -> FirstTable:
    """Return the first table's figures from the file."""
    data = figures()
    first, others = data[data["source"].str.contains(TEAM)], data[~data["source"].str.contains(TEAM)]
    model = first["model"].iloc[0]
    full = others[(others["model"] == model) & (others["method"] == "dense") & (others["protocol"] == STANDARD)]
    dense, half = first[first["method"] == "dense"], first[first["pattern"] == "50%"]
    return FirstTable(model, *(rows["perplexity"].iloc[0] for rows in (dense, half, full)))


class MagnitudeGap(NamedTuple):
    """How far magnitude lies from the best published way of pruning a model by as much.

    Attributes:
        model: The model.
        pattern: How much is pruned, such as '50%'.
        protocol: The protocol of the figures.
        magnitude: The perplexity after pruning by magnitude.
        best: The best way.
        lowest: The perplexity after pruning in that way.
    """

    model: str
    pattern: str
    protocol: str
    magnitude: float
    best: str
    lowest: float


def magnitude_gaps() -> list[MagnitudeGap]:
    """Return the gap for each model, protocol and share of which three figures or more are listed."""
    data = figures()
    found = []
    for (model, protocol, pattern), rows in data[~data["source"].str.contains(TEAM)].groupby(["model", "protocol", "pattern"], sort=False):
        magnitude = rows.loc[rows["method"] == "magnitude", "perplexity"]
        if len(rows) < 3 or magnitude.empty or not pattern.endswith("%"):
            continue
        best = rows.loc[rows["perplexity"].idxmin()]
        found.append(MagnitudeGap(model, pattern, protocol, magnitude.iloc[0], best["method"], best["perplexity"]))
    return found


class ChangeHere(NamedTuple):
    """How much another protocol than the standard one changes the perplexity of a model measured here."""

    model: str
    protocol: str
    change: float


@dataclass(frozen=True)
class OtherProtocol:
    """A published dense figure by another protocol than the full test in windows of 2048.

    Attributes:
        model: The model.
        perplexity: Its perplexity.
        protocol: The protocol, as its source says it.
        source: The source.
        full: The published perplexity of the full test.
        named: Whether the source says which protocol it is.
        here: What that protocol changes in the models measured here; where it is not named, the change that comes nearest.
    """

    model: str
    perplexity: float
    protocol: str
    source: str
    full: float
    named: bool
    here: list[ChangeHere]

    @property
    def change(self) -> float:
        return self.perplexity / self.full - 1

    @property
    def explained(self) -> bool:
        """Whether the nearest change here may be the one that the source does not name."""
        return abs(self.here[0].change - self.change) <= NEAR


def other_protocols(measured: dict[str, pd.DataFrame]) -> list[OtherProtocol]:
    """Return the published dense figures by other protocols, where any of those measured here can be set beside them.

    Args:
        measured: For each model scored here, its frame of protocols.
    """
    dense, found = figures().query("method == 'dense'"), []
    for model, own in dense.groupby("model", sort=False):
        full = own.loc[own["protocol"] == STANDARD, "perplexity"]
        for row in own[own["protocol"] != STANDARD].itertuples() if len(full) else ():
            name, change = PROTOCOLS.get(row.protocol.split(";")[0]), row.perplexity / full.iloc[0] - 1
            here = [at for at in _changes(measured) if name in (None, at.protocol)]
            if here and name is None:
                here = [min(here, key=lambda at: abs(at.change - change))]
            if here:
                found.append(OtherProtocol(model, row.perplexity, row.protocol, row.source, full.iloc[0], name is not None, here))
    return found


def _changes(measured: dict[str, pd.DataFrame]) -> list[ChangeHere]:
    """Return each other protocol's change of the perplexity of each model, where it was measured."""
    found = []
    for model, data in measured.items():
        other = data[(data["skipped"] == "") & (data["protocol"] != protocols.STANDARD) & data["change"].map(math.isfinite)]
        found += [ChangeHere(model, row.protocol, row.change) for row in other.itertuples()]
    return found


@dataclass(frozen=True)
class Reproduction:
    """A published dense figure, and the protocols here that give it.

    Attributes:
        model: The model that it was published of.
        perplexity: The published perplexity.
        source: Its source.
        protocol: Its protocol, as the source says it.
        close: The protocols that give the same within 1%.
        nearest: The protocol that comes nearest.
        expected: The perplexity that this one gives.
    """

    model: str
    perplexity: float
    source: str
    protocol: str
    close: list[str]
    nearest: str
    expected: float


def reproductions(name: str, data: pd.DataFrame) -> list[Reproduction]:
    """Return which protocols reproduce what is published of a dense model.

    A name that goes on, such as that of an instructed or rounded version, is a relative: its figures need not agree. The figures of a
    stretch are those expected on the whole text.

    Args:
        name: The checkpoint's own name, such as 'Qwen2.5-0.5B'.
        data: Its frame of protocols.
    """
    measured = data[(data["skipped"] == "") & data["expected"].notna()]
    found = []
    for row in figures().query("method == 'dense'").itertuples() if len(measured) else ():
        if not name.startswith(row.model):
            continue
        apart = (measured["expected"] / row.perplexity - 1).abs()
        nearest = measured.loc[apart.idxmin()]
        close = list(measured.loc[apart <= SAME, "protocol"])
        found.append(Reproduction(row.model, row.perplexity, row.source, row.protocol, close, nearest["protocol"], nearest["expected"]))
    return found
