"""SHA-256 of files, each read once since a 7B model takes half a minute; and what is made of the SHA-256 of words."""

import hashlib
import json
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from huggingface_hub import constants

from lottery.common.errors import LotteryError
from lottery.common.files import atomic_write

LARGE = 64 << 20  # bytes; from there on what was found is also kept on disk


def sha256(path: Path) -> str:
    """Return the SHA-256 of a whole file.

    The hash of a large file is known from before as long as its path, its size and both of its times are the same: the one of modification
    can be set to anything, the one of change cannot.
    """
    status = path.stat()
    return _sha256(path.resolve(), (status.st_size, status.st_mtime_ns, status.st_ctime_ns))


def key(values: dict) -> str:
    """Return twelve hexadecimal digits that stand for what JSON can hold, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


def seed(words: str) -> int:
    """Return a seed for a random generator that depends on the words alone, on every machine."""
    return int.from_bytes(hashlib.sha256(words.encode()).digest()[:8]) >> 1


@lru_cache(maxsize=256)
def _sha256(path: Path, seen: tuple[int, int, int]) -> str:
    kept = Path(constants.HF_HOME) / "lottery" / "sha256" / f"{hashlib.sha256(str(path).encode()).hexdigest()}.json"
    if seen[0] >= LARGE:
        with suppress(OSError, ValueError, KeyError):  # nothing is kept of it, or nothing that can be read
            known = json.loads(kept.read_text(encoding="utf-8"))
            if known["seen"] == list(seen):
                return known["sha256"]
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if seen[0] >= LARGE:
        with suppress(OSError, LotteryError):  # the cache may be another's, or full: then it is read again the next time
            atomic_write(kept, json.dumps({"seen": seen, "sha256": found}) + "\n")
    return found
