"""What every long run leaves on disk about itself: that it runs, why it failed, that it was asked to stop, and that it is finished."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lottery.errors import LotteryError, StoppedError
from lottery.records import read_state, write_state


@contextmanager
def failures_recorded(folder: Path) -> Iterator[None]:
    """Leaves the reason of a failure on disk for the report, and lets the failure through."""
    try:
        yield
    except BaseException as error:
        with suppress(LotteryError):  # on a full disk not even the reason can be written, and the reason itself must get through
            if isinstance(error, StoppedError):
                write_state(folder, "stopped", str(error))
            else:
                write_state(folder, "failed", f"{type(error).__name__}: {error}".splitlines()[0])
        raise


def check_stop(folder: Path, done: int, wanted: int) -> None:
    """A file named ``stop`` in the folder of a run stops it here, between trials: a warning from Slurm is made into one.

    **Raises** ``StoppedError``.
    """
    stop = folder / "stop"
    if stop.exists():
        stop.unlink()
        raise StoppedError(f"stopped between trials, {done} of {wanted} are recorded; run again to go on")


def finish(folder: Path, done: int, wanted: int) -> str:
    """Writes that all is recorded, and returns the line that says so. **Raises** ``LotteryError`` where it is not."""
    if done < wanted:
        raise LotteryError(f"{wanted - done} of {wanted} trials are not recorded; run the cells above")
    state = read_state(folder)
    if state is None or state.state != "finished":
        write_state(folder, "finished")
    return f"finished: {wanted} trials are recorded"
