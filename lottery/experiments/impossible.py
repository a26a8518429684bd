"""Trials that cannot be made, remembered beside the records, so that no later run spends hours on finding it out again."""

import hashlib
from pathlib import Path

from pydantic import BaseModel

from lottery.common.files import atomic_write
from lottery.experiments.records import Request, read_json

FOLDER = "impossible"
_ROOMS = ("data", "models", "pruning", "training")  # what can be made hangs on their code


def _digest() -> str:
    package, total = Path(__file__).parents[1], hashlib.sha256()
    for path in sorted(path for room in _ROOMS for path in (package / room).rglob("*.py")):
        total.update(f"{path.relative_to(package)}\0".encode() + path.read_bytes())
    return total.hexdigest()


CODE = _digest()  # read once, when this code was loaded: a later pull changes the files, not what runs


class Impossible(BaseModel):
    """Why a trial cannot be made.

    Attributes:
        title: What a person calls the trial.
        reason: Why it cannot be made, whatever the machine.
        code: The digest of the code that found it out.
    """

    title: str
    reason: str
    code: str

    @property
    def by_this_code(self) -> bool:
        """Whether this code would find the same; other code tries again."""
        return self.code == CODE


def remember(folder: Path, request: Request, reason: str) -> None:
    """Write why a trial cannot be made.

    Args:
        folder: Of the study.
        request: The trial.
        reason: Why it cannot be made.
    """
    found = Impossible(title=request.title, reason=reason, code=CODE)
    atomic_write(folder / FOLDER / request.file_name, found.model_dump_json(indent=1) + "\n")


def remembered(folder: Path, request: Request) -> Impossible | None:
    """Return what a run found out of a trial that cannot be made; ``None`` where none did.

    Args:
        folder: Of the study.
        request: The trial.
    """
    return read_json(Impossible, folder / FOLDER / request.file_name)
