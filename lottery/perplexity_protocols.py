"""Why a perplexity differs from the paper's: the protocols by which people score one model on one text, and what each gave here.

The standard one is that of GPTQ, SparseGPT and Wanda; every other differs from it in one thing. All score the same stretch of text.
"""

import math
from pathlib import Path
from typing import Literal

import pandas as pd
import seaborn as sns
from pydantic import BaseModel, ConfigDict

from lottery import style
from lottery.perplexity import exp
from lottery.records import Provenance, read_json
from lottery.show import Picture, prose, table
from lottery.tables import number

MEASUREMENT = 1  # raised whenever a number here means something else
FOLDER = "protocols"
STANDARD = "the standard protocol"


class Protocol(BaseModel):
    """One way to score a text. ``window``: tokens. ``overlap``: windows advance by half of themselves, and only tokens count that no window
    before has scored. ``joined``: what is tokenized in one piece. ``prefix``: each window begins with a beginning-of-sequence token."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    used_by: str
    window: int
    overlap: bool = False
    joined: Literal["blank lines", "as it is", "lines", "pages"] = "blank lines"
    prefix: bool = False
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"


class Request(BaseModel):
    """What was asked for: one model, one stretch of text, one protocol."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    measurement: int
    checkpoint: str
    text_sha256: str
    protocol: Protocol


class Result(BaseModel):
    """``windows``: nats and scored tokens of each window; ``words``: of the stretch. ``skipped``: why it was not measured, else empty."""

    model_config = ConfigDict(ser_json_inf_nan="strings")

    windows: list[tuple[float, int]]
    words: int
    seconds: float
    skipped: str = ""

    @property
    def perplexity(self) -> float:
        return _perplexity(self.windows)


class ProtocolRecord(BaseModel):
    model: str
    request: Request
    result: Result
    provenance: Provenance


def protocols(window: int) -> list[Protocol]:
    """All protocols beside the standard one with windows of ``window`` tokens; those with other windows have a quarter, half and twice."""
    quarter, half, twice = window // 4, window // 2, 2 * window
    return [
        Protocol(name=STANDARD, used_by="GPTQ, SparseGPT, Wanda, this study", window=window),
        Protocol(name=f"windows of {quarter:,}", used_by="quick checks; llama.cpp's default length", window=quarter),
        Protocol(name=f"windows of {half:,}", used_by="GPT-2's length", window=half),
        Protocol(name=f"windows of {twice:,}", used_by="Llama-2's length, in Wanda's README", window=twice),
        Protocol(
            name=f"windows of {half:,}, half overlapping", used_by="the Hugging Face guide to perplexity", window=half, overlap=True
        ),
        Protocol(name=f"windows of {window:,}, half overlapping", used_by="papers with sliding windows", window=window, overlap=True),
        Protocol(name="the file as it is", used_by="llama.cpp", window=window, joined="as it is"),
        Protocol(name="line by line", used_by="scripts that map a tokenizer over a dataset", window=window, joined="lines"),
        Protocol(name="page by page, detokenized", used_by="lm-evaluation-harness, per word", window=window, joined="pages"),
        Protocol(name="a beginning-of-sequence token", used_by="llama.cpp, and whoever's tokenizer adds one", window=window, prefix=True),
        Protocol(name="bfloat16", used_by="most, on a recent GPU", window=window, dtype="bfloat16"),
        Protocol(name="float16", used_by="most, on a T4 or V100", window=window, dtype="float16"),
    ]  # fmt: skip


PARTS = {"the first window alone": 1, "the first 12 windows": 12, "the first 40 windows": 40}


def recorded(folder: Path, window: int) -> list[ProtocolRecord]:
    """What is recorded of a model in its folder, in the order of the protocols."""
    found = [read_json(ProtocolRecord, path) for path in (folder / FOLDER).glob("*.json")]
    order = [protocol.name for protocol in protocols(window)]
    known = [record for record in found if record and record.request.measurement == MEASUREMENT and record.request.protocol.name in order]
    return sorted(known, key=lambda record: order.index(record.request.protocol.name))


def frame(records: list[ProtocolRecord]) -> pd.DataFrame:
    """A row a protocol: its perplexity, per token and per word of the text, and how it stands to the standard one; with parts of the
    standard's windows, and the mean of their perplexities, which need no measurement of their own."""
    rows = []
    for record in records:
        protocol, result = record.request.protocol, record.result
        rows.append(_row(protocol.name, protocol.used_by, result.windows, result.words, result.skipped))
        if protocol.name != STANDARD or result.skipped:
            continue
        for name, count in PARTS.items():
            if count < len(result.windows):
                rows.append(_row(name, "whoever is in a hurry", result.windows[:count], 0))
        singles = [_perplexity([window]) for window in result.windows]
        mean = sum(singles) / len(singles)
        rows.append({**_row("mean of the windows' perplexities", "scripts that average last", result.windows, 0), "perplexity": mean})
    found = pd.DataFrame(rows, columns=["protocol", "used_by", "perplexity", "per_word", "tokens", "skipped"])
    standard = found.loc[found["protocol"] == STANDARD, "perplexity"]
    found["change"] = found["perplexity"] / standard.iloc[0] - 1 if len(standard) else math.nan
    return found


def _row(name: str, used_by: str, windows: list[tuple[float, int]], words: int, skipped: str = "") -> dict:
    per_word = exp(sum(nats for nats, _ in windows) / words) if words and windows else math.nan
    tokens = sum(count for _, count in windows)
    return {
        "protocol": name, "used_by": used_by, "perplexity": _perplexity(windows), "per_word": per_word, "tokens": tokens, "skipped": skipped
    }  # fmt: skip


def _perplexity(windows: list[tuple[float, int]]) -> float:
    tokens = sum(count for _, count in windows)
    return exp(sum(nats for nats, _ in windows) / tokens) if tokens else math.nan


def told(model: str, data: pd.DataFrame) -> str:
    """The protocols of one model as a table, and the span between them in a sentence."""
    measured = data[data["skipped"] == ""]
    if measured.empty:
        return ""
    low, high = measured.loc[measured["perplexity"].idxmin()], measured.loc[measured["perplexity"].idxmax()]
    rows = [
        {
            "Protocol": row.protocol,
            "Perplexity": number(row.perplexity) if not row.skipped else "–",
            "Against the standard": f"{100 * row.change:+.1f}%" if row.change and not row.skipped else "",
            "Per word": number(row.per_word) if pd.notna(row.per_word) else "",
            "Who scores so": row.skipped or row.used_by,
        }
        for row in data.itertuples()
    ]
    sentence = (
        f"**{model}**, dense: the same model on the same stretch of text has a perplexity of {number(low.perplexity)} ({low.protocol}) or"
        f" {number(high.perplexity)} ({high.protocol}), and all between. A figure without its protocol says nothing."
    )
    caption = f"{model}: its dense perplexity by protocol. Each differs from the standard one in one thing."
    return prose(sentence, table(rows, "Perplexity|Against the standard|Per word", caption)).data


def picture(model: str, data: pd.DataFrame) -> Picture | None:
    """Each protocol's perplexity as a dot, the standard one as a line."""
    shown = data[(data["skipped"] == "") & data["perplexity"].map(math.isfinite)].iloc[::-1]
    if len(shown) < 2:
        return None
    figure = style.new_figure(height=0.9 + 0.27 * len(shown))
    axes = figure.subplots()
    for value in shown.loc[shown["protocol"] == STANDARD, "perplexity"]:
        axes.axvline(value, color=".5", linewidth=1, linestyle=":", zorder=1)
    axes.plot(shown["perplexity"], shown["protocol"], "o", color=style.colours(1)[0], markersize=7, markeredgecolor="white", zorder=3)
    axes.set_xscale("log")
    axes.set_xlim(shown["perplexity"].min() / 1.04, shown["perplexity"].max() * 1.06)
    style.logarithmic(axes.xaxis)
    axes.set_xlabel(f"perplexity of {model}, dense (log scale)")
    axes.grid(axis="y", visible=False)
    sns.despine(figure)
    caption = f"Dense perplexity of {model} by protocol. Dotted: the standard protocol."
    alt = f"Dot plot of the dense perplexity of {model} by protocol. " + ", ".join(
        f"{row.protocol} {number(row.perplexity)}" for row in shown.iloc[::-1].itertuples()
    )
    return Picture(figure, caption, alt + ".")
