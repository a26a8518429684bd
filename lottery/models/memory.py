"""Memory: how much there is for this process, its peak since a moment of one's choosing, what others hold, and how fast it is."""

import ctypes
import gc
import re
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import psutil
import torch


def reset_peak(device: torch.device) -> None:
    """Lets the peak start anew from what is held now."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif (clear := Path("/proc/self/clear_refs")).exists():
        # What was freed before, the allocator may still hold: it would count as memory of what comes next.
        gc.collect()
        trim()
        clear.write_text("5")  # Linux: the peak of the resident set starts anew from the present size


def peak(device: torch.device) -> int:
    """The most bytes held since ``reset_peak``: what torch allocated on a GPU, else the resident set of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    peak = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.exists() else None
    return int(peak[1]) * 1024 if peak else psutil.Process().memory_info().rss


class Watched:
    """The most bytes that a model and the work with it held on a device; known once the work is done."""

    bytes: int


@contextmanager
def watched(device: torch.device, weights: int) -> Iterator[Watched]:
    """Watches memory while a model works that is there already. On GPUs, all that torch allocates, on all of them together; on a CPU the
    ``weights``, in bytes, and by how much the process grows, so that Python, libraries and what else it keeps do not count."""
    found, gpus = Watched(), range(torch.cuda.device_count()) if device.type == "cuda" else []
    reset_peak(device)
    for gpu in gpus:
        torch.cuda.reset_peak_memory_stats(gpu)
    before = peak(device)
    yield found
    found.bytes = sum(map(torch.cuda.max_memory_allocated, gpus)) if gpus else weights + max(0, peak(device) - before)


def kind(device: torch.device) -> str:
    """What ``watched`` counts on a device, as records say it."""
    return "GPU memory" if device.type == "cuda" else "main memory"


class Room(NamedTuple):
    """Bytes of main memory that this process may still take, and that it could take in all."""

    free: int
    total: int


def main_memory() -> Room:
    """What the machine has, within what the control groups allow that this process is in: those of a Slurm job or a container, which
    kill what goes beyond, however much the machine has left."""
    found = psutil.virtual_memory()
    free, total = found.available, found.total
    for limit, used in _limits(Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")):
        free, total = min(free, limit - used), min(total, limit)
    return Room(max(0, free), total)


def _limits(mounted: Path, own: Path) -> Iterator[tuple[int, int]]:
    """The limit and the use of memory of each control group of this process and of those around them, in version 1 and 2; cached files
    that nobody uses do not count, since the system gives them back first."""
    if not own.exists():
        return
    for line in own.read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            roots, names = (mounted, mounted / "unified"), ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            roots, names = (mounted / "memory",), ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        inside = PurePosixPath(path.lstrip("/"))
        for group in (root / part for root in roots for part in (inside, *inside.parents)):
            if (limit := _number(group / names[0])) is not None and (used := _number(group / names[1])) is not None:
                stat = group / "memory.stat"
                cached = re.search(rf"^{names[2]} (\d+)$", stat.read_text(), re.MULTILINE) if stat.exists() else None
                yield limit, max(0, used - (int(cached[1]) if cached else 0))


def _number(path: Path) -> int | None:
    """The number in a file; none where there is no such file, or no limit ('max')."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def others(device: torch.device) -> int:
    """Bytes of the device's memory that other processes hold now; on a GPU with what CUDA itself takes for this one."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return max(0, total - free - torch.cuda.memory_reserved(device))
    memory = psutil.virtual_memory()
    return max(0, memory.total - memory.available - psutil.Process().memory_info().rss)


def bandwidth(device: torch.device) -> float:
    """Bytes per second that all threads together read, the median of five times: what no decoding at batch 1 can beat once weights exceed
    the caches.

    A sum of 256 MiB, since decoding only reads its weights. A copy would also write, which is slower a byte.
    """
    numbers = torch.ones(1 << 26, dtype=torch.float32, device=device)  # more would not fit beside a model on a small GPU
    times, seconds = 16 if device.type == "cuda" else 1, []  # in a row, or the start of a sum would count as much as the sum
    for _ in range(6):
        started = time.perf_counter()
        for _ in range(times):
            numbers.sum()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append((time.perf_counter() - started) / times)
    return numbers.nbytes / statistics.median(seconds[1:])  # the first is a warm-up


def trim() -> None:
    """Gives freed main memory back to the system; glibc only. Else it keeps it, in holes that hidden states of other sizes do not fit."""
    if malloc_trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        malloc_trim(0)
