"""The text that models are scored on, and its windows of tokens."""

import hashlib
import json
import re
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import islice
from pathlib import Path

import numpy as np
from huggingface_hub import snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError

from lottery.errors import LotteryError, NotFetchedError, ParamsError
from lottery.paths import resolve
from lottery.standins.storyworld import stories

WIKITEXT = ("Salesforce/wikitext", "b08601e04326c79dfdd32d625aee71d232d685c3", "wikitext-2-raw-v1/test-*.parquet")
STORY_SEED, STORY_COUNT = 2, 150  # about 27,000 words; the seed is the one that training tests on


@dataclass(frozen=True)
class Corpus:
    """A text: ``rows`` joined by blank lines, as GPTQ, SparseGPT and Wanda join WikiText-2."""

    name: str
    rows: tuple[str, ...]

    @cached_property
    def text(self) -> str:
        return "\n\n".join(self.rows)

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()


@lru_cache(maxsize=4)
def corpus(text: str) -> Corpus:
    """The text that a profile names: 'stories', 'wikitext-2-raw', or a file.

    A ``.jsonl`` file has a row a line in its field ``text``; a ``.raw`` file is WikiText's own layout; any other file is one row.

    **Raises** ``ParamsError`` for a file that is missing, empty or not UTF-8; ``NotFetchedError`` where WikiText-2 is not cached.
    """
    if text == "stories":
        return Corpus("stories", tuple(islice(stories(STORY_SEED, test=True), STORY_COUNT)))
    if text == "wikitext-2-raw":
        return Corpus(text, tuple(_wikitext_rows()))
    path = resolve(text)
    if not path.is_file():
        raise ParamsError(f"text: given {text!r}; allowed: stories, wikitext-2-raw, or a .txt, .raw or .jsonl file (looked for {path})")
    try:
        content = path.read_bytes().decode("utf-8")  # bytes, so that no newline is translated
    except UnicodeDecodeError as error:
        raise ParamsError(f"text: {path} is not UTF-8 (byte {error.start}); save it as UTF-8") from None
    rows = (content,)
    if path.suffix == ".jsonl":
        rows = _json_rows(path, content)
    elif path.suffix == ".raw":
        # As the hub's dataset has it: every line keeps its newline, but a blank line is the empty string.
        rows = tuple(line if line.strip() else "" for line in content.splitlines(keepends=True))
    if not any(row.strip() for row in rows):
        raise ParamsError(f"text: {path} is empty; give a file with some thousand words")
    return Corpus(path.name, rows)


def _json_rows(path: Path, content: str) -> tuple[str, ...]:
    try:
        return tuple(json.loads(line)["text"] for line in content.split("\n") if line.strip())
    except (json.JSONDecodeError, KeyError, TypeError):
        raise ParamsError(f'text: {path} is not one {{"text": …}} a line; make it so, or give a .txt file') from None


def wikitext_folder() -> Path:
    """The folder of the one file that is needed of WikiText-2, from the cache; never downloads."""
    repository, revision, pattern = WIKITEXT
    try:
        folder = Path(snapshot_download(repository, repo_type="dataset", revision=revision, allow_patterns=pattern, local_files_only=True))
    except LocalEntryNotFoundError:
        folder = None
    if folder is None or not list(folder.glob(pattern)):
        raise NotFetchedError(
            "WikiText-2 is not in the Hugging Face cache; fetch it first, where there is a network: make fetch PROFILE=full"
        )
    return folder


def _wikitext_rows() -> list[str]:
    from datasets import Dataset  # slow to import, and no other text needs it

    files = [str(path) for path in sorted(wikitext_folder().glob(WIKITEXT[2]))]
    return Dataset.from_parquet(files)["text"][:]


@dataclass(frozen=True)
class Windows:
    """``tokens``: int64 [windows, window]; ``scored_bytes``: UTF-8 bytes of the text that each window predicts, [windows]."""

    tokens: np.ndarray
    scored_bytes: np.ndarray


def windows(tokenizer, text: Corpus, window: int, max_windows: int | None = None) -> Windows:
    """Disjoint windows of ``window`` tokens: the whole text tokenized once, the remainder dropped (2306.11695, 2301.00774).

    The first token of a window is context only, so the bytes counted are those from its second token on.

    **Raises** ``LotteryError`` where the text is shorter than one window.
    """
    encoded = tokenizer(text.text, return_offsets_mapping=True, verbose=False)
    tokens = np.asarray(encoded["input_ids"], dtype=np.int64)
    count = len(tokens) // window
    if count == 0:
        raise LotteryError(
            f"text: {text.name} has {len(tokens)} tokens, less than one window of {window}; give a longer text or a smaller window"
        )
    count = min(count, max_windows or count)
    # Byte position of each character, so that offsets (in characters) become bytes.
    position = np.concatenate([[0], np.cumsum([len(character.encode()) for character in text.text])])
    ends = position[np.asarray(encoded["offset_mapping"], dtype=np.int64)[: count * window, 1]].reshape(count, window)
    # A special token in front (Mistral's <s>) has the empty span (0, 0), which counts nothing.
    return Windows(tokens[: count * window].reshape(count, window), ends[:, -1] - ends[:, 0])


def prompts(text: Corpus, count: int, words: int) -> list[str]:
    """Beginnings to be continued: the first ``words`` words of ``count`` rows spread evenly over those that are long enough.

    A text with fewer such rows is begun at ``count`` places spread evenly over its words.

    Cut at words, not at tokens, so that every model continues the same text.
    """
    start = re.compile(rf"\s*(?:\S+\s+){{{words - 1}}}\S+")
    found = [match[0].strip() for row in text.rows if len(row.split()) >= 2 * words and (match := start.match(row))]
    if len(found) < count:  # one long row, or short ones: begin at words spread over the whole text instead
        every = text.text.split()
        starts = [i * max(0, len(every) - 2 * words) // count for i in range(count)]
        found = [" ".join(every[at : at + words]) for at in starts]
    return [found[i * len(found) // count] for i in range(count)]
