"""Progress in lines: a log file stays short, and short work prints none."""

import time
from collections.abc import Callable

SECONDS = 15  # between two lines


def progress(say: Callable[[str], None], label: str) -> Callable[[int, int], None]:
    """Return a function that is told what is done and all that there is, and now and then says so, with the time that is left."""
    began = last = time.monotonic()

    def tick(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= SECONDS and done < total:
            last = now
            say(f"{label} {done} of {total}, {(now - began) / done * (total - done):.0f} s left")

    return tick
