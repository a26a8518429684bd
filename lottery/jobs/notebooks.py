"""A notebook run headless by papermill, with a kernel that shares its machine with others."""

import sys
import tempfile
from pathlib import Path

import papermill
from papermill.exceptions import PapermillExecutionError
from traitlets.config import Config

from lottery.common.errors import with_class
from lottery.common.files import atomic_write
from lottery.common.paths import project_root

START_SECONDS = 300  # importing torch from a shared file system is slow
STARTS = 3  # of a kernel that dies before its first reply: no cell has run then, so trying again is safe


def notebook_of(name: str) -> Path:
    """Return the notebook that runs a part of a profile: its own, or the one for every model that has none."""
    folder = project_root() / "notebooks"
    own = folder / f"{name}.ipynb"
    return own if own.exists() else folder / "model.ipynb"


def execute(name: str, profile: str, target: Path) -> str:
    """Run the notebook of a part of a profile. What it prints goes to the terminal at once, indented.

    Args:
        name: The part: a model or the ticket procedure, or 'report'.
        profile: The name of the profile.
        target: Where the executed notebook goes. It appears when the run ends, however it ends.

    Returns:
        The reason of a failure in one line, or nothing.
    """
    with tempfile.TemporaryDirectory(prefix="lottery-") as room:  # its own: another run of the same notebook may begin just now
        part = Path(room) / target.name
        try:
            for start in range(1, STARTS + 1):
                reason = _run(name, profile, part)
                if "died before replying" not in reason:
                    break
                print(f"      start {start} of {STARTS}: {reason}", flush=True)
        finally:
            if part.exists():
                atomic_write(target, part.read_text(encoding="utf-8"))
    return reason


def _run(name: str, profile: str, target: Path) -> str:
    source = notebook_of(name)
    # TCP ports are raced for when several kernels start on one machine; a socket of its own is not.
    kernel = Config({"KernelManager": {"transport": "ipc", "ip": str(target.parent / "kernel")}})
    try:
        papermill.execute_notebook(
            str(source), str(target), {"profile": profile, **({"model": name} if source.stem == "model" else {})},
            progress_bar=False, stdout_file=_Indented(), start_timeout=START_SECONDS, config=kernel, cwd=str(project_root()),
        )  # fmt: skip
    except PapermillExecutionError as error:
        return f"{error.ename}: {error.evalue}".splitlines()[0]
    except Exception as error:  # a kernel that died: whatever papermill and nbclient raise then
        return with_class(error)
    return ""


class _Indented:
    """A stream that writes each line below its step."""

    def write(self, text: str) -> None:
        for line in text.splitlines():
            print("      " + line, flush=True)

    def flush(self) -> None:
        sys.stdout.flush()
