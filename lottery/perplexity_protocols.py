"""Why a perplexity differs from the paper's: the protocols by which people score one model on one text, and what each gave here.

The standard one is that of GPTQ, SparseGPT and Wanda; every other differs from it in one thing, but for those of two tools. All score the
same stretch of text, but for parts of it and the whole text.
"""

import math
import re
from pathlib import Path
from typing import Literal

import pandas as pd
import seaborn as sns
from pydantic import BaseModel, ConfigDict

from lottery import style
from lottery.params import Profile
from lottery.perplexity import exp
from lottery.records import Provenance, read_json
from lottery.show import Picture, prose, table
from lottery.tables import number

MEASUREMENT = 2  # raised whenever a number here means something else
FOLDER = "protocols"
STANDARD, WHOLE, LLAMA_CPP = "the standard protocol", "the whole text", "llama.cpp's default"


class Protocol(BaseModel):
    """One way to score a text. ``window``: tokens. ``overlap``: windows advance by half of themselves, and only tokens count that no window
    before has scored. ``second_half``: of each window only that is scored. ``joined``: what is tokenized in one piece. ``prefix``: each
    window begins with a beginning-of-sequence token. ``whole``: all of the text is scored, whatever stretch the others score."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    used_by: str
    window: int
    overlap: bool = False
    second_half: bool = False
    joined: Literal["blank lines", "as it is", "lines", "pages"] = "blank lines"
    prefix: bool = False
    whole: bool = False
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"


class Request(BaseModel):
    """What was asked for: one model, one stretch of a text, one protocol. The standard protocol's windows say how long the stretch is."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    measurement: int
    checkpoint: str
    text_sha256: str  # of the whole text
    window: int
    max_windows: int | None
    protocol: Protocol

    @property
    def file_name(self) -> str:
        return f"{re.sub(r'[^a-z0-9]+', '-', self.protocol.name)}.json"


class Result(BaseModel):
    """``windows``: nats and scored tokens of each window; ``tokens`` and ``words`` of the text that they were cut from. ``skipped``: why it
    was not measured, else empty."""

    model_config = ConfigDict(ser_json_inf_nan="strings")

    windows: list[tuple[float, int]]
    tokens: int
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


def protocols(window: int, max_windows: int | None) -> list[Protocol]:
    """All protocols beside the standard one with windows of ``window`` tokens; those with other windows have a quarter, half and twice.
    Where a stretch of ``max_windows`` is scored only, the standard one is also that of the whole text."""
    quarter, half, twice = window // 4, window // 2, 2 * window
    found = [
        Protocol(name=STANDARD, used_by="GPTQ, SparseGPT, Wanda, this study", window=window),
        Protocol(name=WHOLE, used_by="papers", window=window, whole=True),
        Protocol(name=f"windows of {quarter:,}", used_by="quick checks", window=quarter),
        Protocol(name=f"windows of {half:,}", used_by="GPT-2's length", window=half),
        Protocol(name=f"windows of {twice:,}", used_by="Llama-2's length, in Wanda's README", window=twice),
        Protocol(
            name=f"windows of {half:,}, half overlapping", used_by="the Hugging Face guide to perplexity", window=half, overlap=True
        ),
        Protocol(name=f"windows of {window:,}, half overlapping", used_by="papers with sliding windows", window=window, overlap=True),
        Protocol(name="the file as it is", used_by="scripts that read wiki.test.raw", window=window, joined="as it is"),
        Protocol(name="line by line", used_by="scripts that map a tokenizer over a dataset", window=window, joined="lines"),
        Protocol(name="page by page, detokenized", used_by="lm-evaluation-harness, per word", window=window, joined="pages"),
        Protocol(
            name=LLAMA_CPP, used_by=f"llama.cpp: windows of {quarter:,}, their second half, the file as it is", window=quarter,
            joined="as it is", second_half=True,
        ),
        Protocol(name="a beginning-of-sequence token", used_by="whoever's tokenizer adds one", window=window, prefix=True),
        Protocol(name="bfloat16", used_by="most, on a recent GPU", window=window, dtype="bfloat16"),
        Protocol(name="float16", used_by="most, on a T4 or V100", window=window, dtype="float16"),
    ]  # fmt: skip
    fewest = 4  # tokens of a window of which a half can still be scored
    return [protocol for protocol in found if (max_windows or not protocol.whole) and protocol.window >= fewest]


PARTS = {"the first window alone": 1, "the first 12 windows": 12, "the first 40 windows": 40}


def wanted(profile: Profile, checkpoint: str, text_sha256: str) -> list[Request]:
    """All protocols of a profile as requests, in their order. **Arguments**: the identity of the checkpoint, and of the whole text."""
    shared = {"measurement": MEASUREMENT, "checkpoint": checkpoint, "text_sha256": text_sha256}
    shared |= {"window": profile.seq_len, "max_windows": profile.max_windows}
    return [Request(protocol=protocol, **shared) for protocol in protocols(profile.seq_len, profile.max_windows)]


def recorded(folder: Path, asked: list[Request]) -> list[ProtocolRecord]:
    """The records in a model's folder of what is asked, in its order."""
    found = {record.request: record for path in (folder / FOLDER).glob("*.json") if (record := read_json(ProtocolRecord, path))}
    return [found[request] for request in asked if request in found]


def frame(records: list[ProtocolRecord]) -> pd.DataFrame:
    """A row a protocol: its perplexity, per token and per word of the text, and how it stands to the standard one; with parts of the
    standard's windows, and the mean of their perplexities, which need no measurement of their own. ``expected``: what the protocol should
    give on the whole text, if it changes as much there."""
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
        singles = [_perplexity([window]) for window in result.windows]
        mean = sum(singles) / len(singles)
        rows.append({**_row("mean of the windows' perplexities", "scripts that average last", result.windows), "perplexity": mean})
    found = pd.DataFrame(rows, columns=["protocol", "used_by", "perplexity", "per_word", "windows", "tokens", "skipped"])
    standard = found.loc[found["protocol"] == STANDARD, "perplexity"]
    found["change"] = found["perplexity"] / standard.iloc[0] - 1 if len(standard) else math.nan
    whole = found["protocol"].str.startswith(WHOLE)
    longer = (found.loc[whole, "perplexity"] / standard.iloc[0]).iloc[0] if whole.any() and len(standard) else 1.0
    found["expected"] = found["perplexity"].where(whole | found["protocol"].isin(PARTS), found["perplexity"] * longer)
    return found


def _row(name: str, used_by: str, windows: list[tuple[float, int]], words_a_token: float = 0, skipped: str = "") -> dict:
    nats, tokens = sum(nats for nats, _ in windows), sum(count for _, count in windows)
    per_word = exp(nats / tokens / words_a_token) if words_a_token and tokens else math.nan
    return {
        "protocol": name, "used_by": used_by, "perplexity": _perplexity(windows), "per_word": per_word, "windows": len(windows),
        "tokens": tokens, "skipped": skipped,
    }  # fmt: skip


def _perplexity(windows: list[tuple[float, int]]) -> float:
    tokens = sum(count for _, count in windows)
    return exp(sum(nats for nats, _ in windows) / tokens) if tokens else math.nan


def change(share: float) -> str:
    """A relative change in per cent, without a sign where it is none."""
    return "0.0%" if abs(share) < 0.0005 else f"{100 * share:+.1f}%"


def told(model: str, data: pd.DataFrame) -> str:
    """The protocols of one model as a table, and the span between them in a sentence."""
    measured = data[(data["skipped"] == "") & data["perplexity"].notna()]
    if measured.empty:
        return ""
    low, high = measured.loc[measured["perplexity"].idxmin()], measured.loc[measured["perplexity"].idxmax()]
    rows = [
        {
            "Protocol": row.protocol,
            "Perplexity": number(row.perplexity) if not row.skipped else "–",
            "Against the standard": change(row.change) if row.protocol != STANDARD and not math.isnan(row.change) else "",
            "Per word": number(row.per_word) if pd.notna(row.per_word) else "",
            "Who scores so": row.skipped or row.used_by,
        }
        for row in data.itertuples()
    ]
    sentence = (
        f"**{model}**, dense: the same model on the same text has a perplexity of {number(low.perplexity)} ({low.protocol}) or"
        f" {number(high.perplexity)} ({high.protocol}), and all between. A figure without its protocol says nothing."
    )
    count = data.loc[data["protocol"] == STANDARD, "windows"]
    scored = f" All score the stretch of the standard one's {count.iloc[0]} windows, or the part that they name." if len(count) else ""
    caption = f"{model}: its dense perplexity by protocol.{scored}"
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
