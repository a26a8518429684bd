"""The text that models are scored on, and its windows of tokens."""

import hashlib
import io
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from huggingface_hub import snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError

from lottery.common.errors import LotteryError, NotFetchedError, ParamsError, short
from lottery.common.hashing import sha256
from lottery.common.paths import resolve
from lottery.data.stories import scored
from lottery.data.stories.world import stories, story

UNREAD = 0.01  # share of a text without tokens, beyond which bits per byte would be of another text
TRAINING_SEED, TRAINING_COUNT = 1, 1500  # the first stories of those that the stand-ins were trained on


class HubText(NamedTuple):
    """Files of a dataset on the hub at a pinned revision."""

    repository: str
    revision: str
    pattern: str


HUB_TEXTS = {
    "wikitext-2-raw": HubText("Salesforce/wikitext", "b08601e04326c79dfdd32d625aee71d232d685c3", "wikitext-2-raw-v1/test-*.parquet"),
    # The first of 1,024 files of the training split, as in SparseGPT and Wanda.
    "c4": HubText("allenai/c4", "1588ec454efa1a09f29cd18ddd04fe05fc8653a2", "en/c4-train.00000-of-01024.json.gz"),
}


NAMED = ("stories", "training-stories", *HUB_TEXTS)


@dataclass(frozen=True)
class Corpus:
    """A text: ``rows`` joined by blank lines, as GPTQ, SparseGPT and Wanda join WikiText-2."""

    name: str
    rows: Sequence[str]

    @cached_property
    def text(self) -> str:
        return "\n\n".join(self.rows)

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()


@lru_cache(maxsize=4)
def corpus(text: str, key: str = "text") -> Corpus:
    """Return the text that a profile names.

    A ``.jsonl`` file has one row per line, in its field ``text``; a ``.raw`` file has WikiText's own layout; a ``.txt`` file is one row.

    Args:
        text: 'stories', 'training-stories', 'wikitext-2-raw', 'c4', or a file.
        key: The profile's key, for error messages.

    Returns:
        The text with its rows.

    Raises:
        ParamsError: A file is missing, of another kind, empty or not UTF-8; the message names ``key``.
        NotFetchedError: A text from the hub is not cached.
    """
    if text == "stories":
        return Corpus(text, tuple(story(scored.SEED, number) for number in scored.NUMBERS))
    if text == "training-stories":
        return Corpus(text, tuple(islice(stories(TRAINING_SEED, test=False), TRAINING_COUNT)))
    if text in HUB_TEXTS:
        return Corpus(text, _hub_rows(text))
    path, kind = resolve(text), Path(text).suffix.lower()
    if not path.is_file() or kind not in (".txt", ".raw", ".jsonl"):
        raise ParamsError(f"{key}: given {short(text)}; allowed: {', '.join(NAMED)}, or a .txt, .raw or .jsonl file (looked for {path})")
    try:
        content = path.read_bytes().decode("utf-8")  # bytes, so that no newline is translated
    except UnicodeDecodeError as error:
        raise ParamsError(f"{key}: {path} is not UTF-8 (byte {error.start}); save it as UTF-8") from None
    rows = (content,)
    if kind == ".jsonl":
        rows = _json_rows(path, content, key)
    elif kind == ".raw":
        rows = _raw_rows(content)
    if not any(row.strip() for row in rows):
        raise ParamsError(f"{key}: {path} is empty; give a file with some thousand words")
    return Corpus(path.name, rows)


def _raw_rows(content: str) -> tuple[str, ...]:
    """Split a text into rows as the hub's dataset has them: each line keeps its newline, but a blank line becomes the empty string."""
    return tuple(line if line.strip() else "" for line in io.StringIO(content, newline="\n"))


def _json_rows(path: Path, content: str, key: str) -> tuple[str, ...]:
    try:
        rows = tuple(json.loads(line)["text"] for line in content.split("\n") if line.strip())
        "".join(rows).encode()  # a lone half of a surrogate pair is no text, and JSON can hold it
        return rows
    except (json.JSONDecodeError, KeyError, TypeError, UnicodeEncodeError):
        raise ParamsError(f'{key}: {path} is not one {{"text": …}} a line; make it so, or give a .txt file') from None


def corpus_identity(text: str, key: str = "text") -> str:
    """Return what identifies a text, without loading it from the hub: its pinned files, or the SHA-256 of its text."""
    return "@".join(HUB_TEXTS[text]) if text in HUB_TEXTS else corpus(text, key).sha256


LOCAL = {"wikitext-2-raw": ("wikitext-2-raw/wiki.test.raw", "173c87a53759e0201f33e0ccf978e510c2042d7f2cb78229d9a50d79b9e7dd08")}


def local_file(text: str) -> Path | None:
    """Return the original file of a hub text, if it is on this machine and identical to the byte.

    It is looked for in the folder that ``LOTTERY_DATA`` names (default ``../shared/data``), so a machine without the hub scores the same
    text.
    """
    path = _copy(text)
    return path if path and path.is_file() and sha256(path) == LOCAL[text][1] else None


def _copy(text: str) -> Path | None:
    """Return where the original file of a hub text is looked for on this machine; ``None`` where no file would do."""
    return resolve(os.environ.get("LOTTERY_DATA", "../shared/data")) / LOCAL[text][0] if text in LOCAL else None


def hub_folder(text: str) -> Path:
    """Return the cached folder that holds the needed files of a text on the hub; never download."""
    repository, revision, pattern = HUB_TEXTS[text]
    try:
        folder = Path(snapshot_download(repository, repo_type="dataset", revision=revision, allow_patterns=pattern, local_files_only=True))
    except LocalEntryNotFoundError:
        folder = None
    if folder is None or not list(folder.glob(pattern)):
        raise NotFetchedError(
            f"{text} is not in the Hugging Face cache; fetch it first, where there is a network: make fetch PROFILE=…"
            + (f"; or put its original file into the folder that LOTTERY_DATA names, as {LOCAL[text][0]}" if text in LOCAL else "")
            + (f" ({copy} is not the original)" if (copy := _copy(text)) and copy.is_file() else "")
        )
    return folder


def _hub_rows(text: str) -> Sequence[str]:
    if path := local_file(text):
        return _raw_rows(path.read_bytes().decode("utf-8"))
    from datasets import Dataset  # slow to import, and no other text needs it

    files = [str(path) for path in sorted(hub_folder(text).glob(HUB_TEXTS[text].pattern))]
    if files[0].endswith(".parquet"):
        return tuple(Dataset.from_parquet(files)["text"][:])
    return Dataset.from_json(files)["text"]  # read row by row: this is much text, and few rows are needed


@dataclass(frozen=True)
class Windows:
    """The windows of a text.

    Attributes:
        tokens: Tokens of each window, int64 [windows, window].
        scored_bytes: UTF-8 bytes of the text that each window predicts, [windows].
        scored_words: Words that begin in the text that each window predicts, [windows].
    """

    tokens: np.ndarray
    scored_bytes: np.ndarray
    scored_words: np.ndarray


def windows(tokenizer, text: Corpus, window: int, max_windows: int | None = None) -> Windows:
    """Cut a text into disjoint windows: tokenize the whole text once and drop the remainder (2306.11695, 2301.00774).

    The first token of a window is context only, so bytes and words are counted from its second token on.

    Args:
        tokenizer: A fast tokenizer, which maps tokens to characters.
        text: The text to cut.
        window: Tokens per window.
        max_windows: Keep at most this many windows; ``None`` keeps all.

    Returns:
        The windows, with the bytes and words that each one predicts.

    Raises:
        LotteryError: The text is shorter than one window, or the tokenizer has no tokens for part of it.
    """
    encoded = tokenizer(text.text, return_offsets_mapping=True, verbose=False)
    tokens = np.asarray(encoded["input_ids"], dtype=np.int64)
    count = len(tokens) // window
    if count == 0:
        raise LotteryError(
            f"text: {text.name} has {len(tokens)} tokens, less than one window of {window}; give a longer text or a smaller seq_len"
        )
    count = min(count, max_windows or count)
    offsets = np.asarray(encoded["offset_mapping"], dtype=np.int64)[: count * window]
    unread = _unread(tokenizer, text, tokens[: count * window], offsets)
    if unread > UNREAD:
        raise LotteryError(
            f"text: the model's tokenizer has no tokens for {100 * unread:.1f}% of {text.name}; give a text in a language and script"
            " that the model was made for"
        )
    # Byte position of each character, so that offsets (in characters) become bytes.
    position = np.concatenate([[0], np.cumsum([len(character.encode()) for character in text.text])])
    # A special token in front (Mistral's <s>) or behind has the empty span (0, 0), which counts nothing.
    ends = np.maximum.accumulate(offsets[:, 1]).reshape(count, window)[:, [0, -1]]
    words = np.searchsorted([match.start() for match in re.finditer(r"\S+", text.text)], ends)
    return Windows(tokens[: count * window].reshape(count, window), np.diff(position[ends])[:, 0], np.diff(words)[:, 0])


def _unread(tokenizer, text: Corpus, tokens: np.ndarray, offsets: np.ndarray) -> float:
    """Return the share of a text's characters, spaces aside, that became the unknown token or no token: nobody can predict those."""
    # Many tokenizers name their end of text as the unknown token too; where it is written in the text, it was read.
    unknown = [i for i in np.flatnonzero(tokens == tokenizer.unk_token_id) if text.text[slice(*offsets[i])] != tokenizer.unk_token]
    read = np.delete(offsets, unknown, axis=0)
    edges = np.zeros(len(text.text) + 1, dtype=np.int64)
    np.add.at(edges, read[:, 0], 1)
    np.add.at(edges, read[:, 1], -1)
    stop = int(offsets[:, 1].max(initial=0))
    written = np.array([not character.isspace() for character in text.text[:stop]], dtype=bool)
    return float((written & (np.cumsum(edges)[:stop] == 0)).sum() / max(1, written.sum()))


def prompts(text: Corpus, count: int, words: int) -> list[str]:
    """Return beginnings to continue: the first ``words`` words of ``count`` rows spread evenly over those that are long enough.

    If a text has too few such rows, beginnings are taken at ``count`` places spread evenly over its words. Beginnings are cut at words, not
    at tokens, so that every model continues the same text.
    """
    start = re.compile(rf"\s*(?:\S+\s+){{{words - 1}}}\S+")
    found = [match[0].strip() for row in text.rows if len(row.split()) >= 2 * words and (match := start.match(row))]
    if len(found) < count:  # one long row, or short ones: begin at words spread over the whole text instead
        every = text.text.split()
        starts = [i * max(0, len(every) - 2 * words) // count for i in range(count)]
        found = [" ".join(every[at : at + words]) for at in starts]
    return [found[i * len(found) // count] for i in range(count)]
