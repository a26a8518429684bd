"""What every long run leaves on disk about itself: that it runs, why it failed, and that it was asked to stop."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lottery.errors import LotteryError, StoppedError
from lottery.records import write_state


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
