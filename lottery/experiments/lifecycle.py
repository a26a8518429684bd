"""What every long run leaves on disk about itself.

It says that it is at work, so that no other run starts; why it failed; that it was asked to stop; and that it is finished.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from lottery.common.errors import HeldError, LotteryError, StoppedError, with_class
from lottery.common.files import atomic_write
from lottery.experiments.records import read_state, slurm_job, write_state

_OWN: set[Path] = set()  # folders of models that this process holds


@contextmanager
def held(folder: Path, trial: str = "") -> Iterator[None]:
    """Keep other runs away from a folder, or from one of its trials, for a while.

    The system releases the lock when a process ends, however it ends. Where a file system has no locks of its own, a file that a killed run
    leaves behind in ``.locks`` has to be removed by hand.

    Args:
        folder: The folder of a run.
        trial: The name of a trial; the whole folder unless given.

    Raises:
        HeldError: Another run has it. The error comes at once, with what is known of that run.
    """
    locks = folder / ".locks"
    locks.mkdir(parents=True, exist_ok=True)
    lock, holder = FileLock(locks / f"{trial or 'model'}.lock"), locks / f"{trial or 'model'}.holder"
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise HeldError(f"{folder.name}: {_who(holder)} is at work on it; wait until it is done, or stop it") from None
    try:
        job, now = slurm_job(), datetime.now().astimezone()
        atomic_write(holder, json.dumps({"process": os.getpid(), "job": job, "since": f"{now:%Y-%m-%d %H:%M}"}) + "\n")
        if not trial:
            _OWN.add(folder)
        yield
    finally:
        if not trial:
            _OWN.discard(folder)
        holder.unlink(missing_ok=True)
        lock.release()


def _who(holder: Path) -> str:
    try:
        known = json.loads(holder.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # it has only just begun
        return "another run"
    name = f"Slurm job {known['job']}" if known["job"] else f"process {known['process']}"
    return f"another run ({name}, since {known['since']})"


@contextmanager
def record_failure(folder: Path) -> Iterator[None]:
    """Record an exception in ``state.json`` and re-raise it, unless another run is at work in the folder: then the state is its own."""
    try:
        yield
    except HeldError:
        raise
    except BaseException as error:
        # On a full disk, or one that may only be read, not even the reason can be written, and the reason itself must get through.
        with suppress(LotteryError, OSError), nullcontext() if folder in _OWN else held(folder):
            if isinstance(error, StoppedError):
                write_state(folder, "stopped", str(error))
            else:
                write_state(folder, "failed", with_class(error))
        raise


def raise_if_stop_requested(folder: Path, done: int, wanted: int) -> None:
    """Stop a run between trials where a file named ``stop`` is in its folder; a warning from Slurm is turned into such a file.

    Args:
        folder: The folder of the run.
        done: How many trials are recorded.
        wanted: How many trials there are.

    Raises:
        StoppedError: The file is there.
    """
    stop = folder / "stop"
    if stop.exists():
        stop.unlink()
        raise stopped(done, wanted)


def stopped(done: int, wanted: int) -> StoppedError:
    """Return the error that a run raises when it was asked to stop, with what is recorded by then."""
    return StoppedError(f"stopped between trials, {done} of {wanted} are recorded; run again to continue")


def finish(folder: Path, done: int, wanted: int) -> str:
    """Write that all is recorded, and return the line that says so.

    Args:
        folder: The folder of the run.
        done: How many trials are recorded.
        wanted: How many trials there are.

    Raises:
        LotteryError: Trials are missing.
    """
    if done < wanted:
        raise LotteryError(f"{wanted - done} of {wanted} trials are not recorded; run the cells above")
    state = read_state(folder)
    if state is None or state.state != "finished":
        write_state(folder, "finished")
    return f"finished: {wanted} trials are recorded"
