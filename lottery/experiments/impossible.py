"""Trials that cannot be made, remembered beside the records, so that no later run spends hours on finding it out again."""

from pathlib import Path

from pydantic import BaseModel

from lottery.common.commit import COMMIT
from lottery.common.files import atomic_write
from lottery.experiments.records import Request, read_json

FOLDER = "impossible"


class Impossible(BaseModel):
    """Why a trial cannot be made.

    Attributes:
        title: What a person calls the trial.
        reason: Why it cannot be made, whatever the machine.
        commit: The code that found it out; another one tries again.
    """

    title: str
    reason: str
    commit: str


def remember(folder: Path, request: Request, reason: str) -> None:
    """Write why a trial cannot be made."""
    found = Impossible(title=request.title, reason=reason, commit=COMMIT)
    atomic_write(folder / FOLDER / request.file_name, found.model_dump_json(indent=1) + "\n")


def why_impossible(folder: Path, request: Request) -> str | None:
    """Return why a trial cannot be made, as this code found out; ``None`` where it did not."""
    found = read_json(Impossible, folder / FOLDER / request.file_name)
    return found.reason if found and found.commit == COMMIT else None
