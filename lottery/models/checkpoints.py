"""Models to study: stand-ins, pinned hub checkpoints, local folders, GGUF files, and GGUF files in wheels of the package index.

Hub checkpoints are pinned to a revision. Nothing here loads a model.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.constants import SAFETENSORS_INDEX_FILE
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

from lottery.common.errors import LotteryError, NotFetchedError
from lottery.common.hashing import sha256
from lottery.models import gguf_files
from lottery.models.gguf_files import Pin

STAND_INS = Path(__file__).parent / "standins" / "checkpoints"
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}")
# Weights as safetensors only, and what configures and tokenizes. No code, no pickles.
FILES = [
    "config.json", "generation_config.json", "model*.safetensors", SAFETENSORS_INDEX_FILE,
    "tokenizer.json", "tokenizer_config.json", "tokenizer.model",
    "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt",
]  # fmt: skip


@dataclass(frozen=True)
class Checkpoint:
    """A model that can be studied.

    Attributes:
        name: Its name.
        kind: 'stand-in', 'hub', 'folder', 'gguf' or 'wheel'.
        source: A name, an id@revision, a path, or a pin of a file inside a wheel.
    """

    name: str
    kind: str
    source: str

    @property
    def folder(self) -> Path:
        """The folder with its files.

        It never downloads: a job at night must not be the first to find out that a model is gated or the network is down.

        Raises:
            NotFetchedError: A hub checkpoint is not in the cache, or a GGUF file is not converted.
        """
        if self.kind == "stand-in":
            return STAND_INS / self.source
        if self.kind == "folder":
            return Path(self.source)
        if self.kind in ("gguf", "wheel"):
            folder = gguf_files.converted_folder(self._gguf_sha256)
            if not folder.exists():
                raise NotFetchedError(f"{self.label} is not converted to safetensors yet; run: make fetch with the profile that names it")
            return folder
        repository, revision = self.source.split("@")
        try:
            folder = Path(snapshot_download(repository, revision=revision, allow_patterns=FILES, local_files_only=True))
        except (LocalEntryNotFoundError, HFValidationError):
            folder = None
        if folder is None or not (folder / "config.json").exists():
            raise self._not_fetched("is not in the Hugging Face cache")
        return folder

    @cached_property
    def pin(self) -> Pin | None:
        """The file and its wheel, for a checkpoint in a wheel; else ``None``."""
        return Pin.parse(self.source, "model") if self.kind == "wheel" else None

    @property
    def _gguf_sha256(self) -> str:
        return self.pin.sha256 if self.pin else sha256(Path(self.source))

    @property
    def label(self) -> str:
        """Its name in messages, short enough to be read."""
        if self.pin:
            first, *others = self.pin.wheels
            return f"{self.pin.file} of {first}" + (f" and {len(others)} more" if others else "")
        return self.source if self.kind in ("hub", "stand-in") else Path(self.source).name

    @cached_property
    def identity(self) -> str:
        """What identifies this checkpoint: the pinned revision, the hash of a GGUF file, or a digest of the files."""
        if self.kind == "hub":
            return self.source
        if self.kind in ("gguf", "wheel"):
            return f"gguf:{self._gguf_sha256}"
        return f"{self.kind}:{Path(self.source).name}@{digest(self.folder)}"

    @property
    def public_source(self) -> str:
        """Where it came from, for a record that others read: no path of this machine, but a wheel's whole pin."""
        return {"folder": self.identity, "gguf": self.label}.get(self.kind, self.source)

    @cached_property
    def quantization(self) -> str | None:
        """What its weights were rounded to before any pruning, if a GGUF file says so."""
        return gguf_files.quantization(self.folder) if self.kind in ("gguf", "wheel") else None

    def check(self) -> "Checkpoint":
        """Return itself if it has a configuration, a tokenizer and all its weights as safetensors.

        Raises:
            LotteryError: Something is missing; the message says what.
        """
        folder = self.folder
        for pattern, what in [("config.json", "configuration"), ("*.safetensors", "weights as safetensors"), ("tokenizer*", "tokenizer")]:
            if not any(folder.glob(pattern)):
                if self.kind == "hub":
                    raise self._not_fetched(f"is fetched in part, {pattern} is missing")
                raise LotteryError(
                    f"model: {self.source} has no {pattern} ({what}); allowed: a Hugging Face folder with safetensors weights"
                )
        if absent := missing_shards(folder):
            if self.kind == "hub":
                raise self._not_fetched(f"is fetched in part, {absent[0]} is missing")
            raise LotteryError(f"model: {self.source} lacks {', '.join(absent)}, which its index names; copy the folder again")
        return self

    def _not_fetched(self, how: str) -> NotFetchedError:
        repository, revision = self.source.split("@")
        return NotFetchedError(
            f"{self.source} {how}; fetch it first, where there is a network: make fetch PROFILE=…"
            f" (a model that is in no profile: hf download {repository} --revision {revision})"
        )


def shown(kind: str, source: str) -> str:
    """Return a public source as captions show it: a pin may be longer than a page is wide."""
    return Checkpoint("", kind, source).label if kind == "wheel" else source


def missing_shards(folder: Path) -> list[str]:
    """Return the files that a sharded model's index names but that are missing: the download was interrupted."""
    return sorted(name for name in _shards(folder) if not (folder / name).exists())


def _shards(folder: Path) -> set[str]:
    """Return the files that a sharded model's index names: those are loaded, whatever they are called."""
    index = folder / SAFETENSORS_INDEX_FILE
    return set(json.loads(index.read_text())["weight_map"].values()) if index.exists() else set()


def stand_ins() -> list[str]:
    return sorted(path.name for path in STAND_INS.iterdir() if (path / "config.json").is_file())


def digest(folder: Path) -> str:
    """Return a digest of the names and all bytes of the files that matter in a checkpoint's folder."""
    total = hashlib.sha256()
    for path in sorted({p for pattern in (*FILES, *_shards(folder)) for p in folder.glob(pattern)}):
        total.update(f"{path.name}:{sha256(path)}\n".encode())
    return total.hexdigest()[:16]
