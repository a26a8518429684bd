"""Why a perplexity differs from the paper's: the protocols in use for scoring one model on one text, and what each gave here.

The standard protocol is that of GPTQ, SparseGPT and Wanda. Every other differs from it in one thing, except those of two tools. All score
the same stretch of text, except for parts of it and the whole text.
"""

import math
import re
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from lottery.config.profile import Profile
from lottery.evaluation.bootstrap import exp
from lottery.experiments.records import Provenance, read_json

MEASUREMENT = 2  # raised whenever a number here means something else
FOLDER = "protocols"
STANDARD, WHOLE, LLAMA_CPP = "the standard protocol", "the whole text", "llama.cpp's default"


class Protocol(BaseModel):
    """One way to score a text.

    Attributes:
        name: What it is called.
        used_by: Who scores in this way.
        window: Tokens in a window.
        overlap: Windows advance by half their length, and only tokens that no earlier window scored count.
        second_half: Only the second half of each window is scored.
        joined: What is tokenized in one piece.
        prefix: Each window begins with a beginning-of-sequence token.
        whole: All of the text is scored, whatever stretch the others score.
        dtype: The dtype of the model.
    """

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
    """What was asked for: one model, one stretch of a text, one protocol. The standard protocol's windows set the length of the stretch."""

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
    """What a protocol gave.

    Attributes:
        windows: Nats and scored tokens of each window.
        tokens: Tokens of the text that the windows were cut from.
        words: Words of that text.
        seconds: How long it took.
        skipped: Why it was not measured, else empty.
    """

    model_config = ConfigDict(ser_json_inf_nan="strings")

    windows: list[tuple[float, int]]
    tokens: int
    words: int
    seconds: float
    skipped: str = ""

    @property
    def perplexity(self) -> float:
        return perplexity_of(self.windows)


class ProtocolRecord(BaseModel):
    model: str
    request: Request
    result: Result
    provenance: Provenance


def protocols(window: int, max_windows: int | None) -> list[Protocol]:
    """Return the standard protocol and all others beside it. Those with other windows have a quarter, half and twice its length.

    Args:
        window: Tokens in a window of the standard protocol.
        max_windows: How many windows of it are scored, or ``None`` for the whole text. Where only such a stretch is scored, the standard
            protocol is also run on the whole text.
    """
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


def wanted(profile: Profile, checkpoint: str, text_sha256: str) -> list[Request]:
    """Return all protocols of a profile as requests, in their order.

    Args:
        profile: Gives the length of a window and how many are scored.
        checkpoint: The identity of the checkpoint.
        text_sha256: The SHA-256 of the whole text.
    """
    shared = {"measurement": MEASUREMENT, "checkpoint": checkpoint, "text_sha256": text_sha256}
    shared |= {"window": profile.seq_len, "max_windows": profile.max_windows}
    return [Request(protocol=protocol, **shared) for protocol in protocols(profile.seq_len, profile.max_windows)]


def recorded(folder: Path, asked: list[Request]) -> list[ProtocolRecord]:
    """Return the records in a model's folder of what is asked, in the order asked."""
    found = {record.request: record for path in (folder / FOLDER).glob("*.json") if (record := read_json(ProtocolRecord, path))}
    return [found[request] for request in asked if request in found]


def perplexity_of(windows: list[tuple[float, int]]) -> float:
    """Return the perplexity of windows given as nats and scored tokens; not a number where nothing was scored."""
    tokens = sum(count for _, count in windows)
    return exp(sum(nats for nats, _ in windows) / tokens) if tokens else math.nan
