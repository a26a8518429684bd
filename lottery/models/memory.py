"""Memory: how much this process may take, its peak since a chosen moment, what others hold, and how fast it is."""

import ctypes
import gc
import os
import re
import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import psutil
import torch


@cache
def collect_quickly() -> None:
    """Let garbage collections pass over what exists now: with the libraries loaded, one before each peak takes 0.2 s, else 0.01 s.

    To be called before a model is loaded: what exists now is never collected.
    """
    gc.collect()
    gc.freeze()


def reset_peak(device: torch.device) -> None:
    """Restart the peak from what is held now."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif (clear := Path("/proc/self/clear_refs")).exists():
        # What was freed before, the allocator may still hold: it would count as memory of what comes next.
        gc.collect()
        trim()
        clear.write_text("5")  # Linux: the peak of the resident set starts anew from the present size


def peak(device: torch.device) -> int:
    """Return the most bytes held since ``reset_peak``: what torch allocated on a GPU, else this process's resident set."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    peak = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.exists() else None
    return int(peak[1]) * 1024 if peak else psutil.Process().memory_info().rss


class Watched:
    """The most bytes that a model and its work held on a device; known once the work is done."""

    bytes: int


@contextmanager
def watched(device: torch.device, weights: int) -> Iterator[Watched]:
    """Watch memory while a model that is already loaded works.

    On GPUs this counts all that torch allocates, on all of them together. On a CPU it counts the weights and how much the process grows, so
    Python, libraries and whatever else the process holds do not count.

    Args:
        device: Where the model works.
        weights: Bytes of the model's weights, counted on a CPU.

    Yields:
        What will hold the peak once the work is done.
    """
    found, gpus = Watched(), range(torch.cuda.device_count()) if device.type == "cuda" else []
    reset_peak(device)
    for gpu in gpus:
        torch.cuda.reset_peak_memory_stats(gpu)
    before = peak(device)
    yield found
    found.bytes = sum(map(torch.cuda.max_memory_allocated, gpus)) if gpus else weights + max(0, peak(device) - before)


def kind(device: torch.device) -> str:
    """Return what ``watched`` counts on a device, as records say it."""
    return "GPU memory" if device.type == "cuda" else "main memory"


class Room(NamedTuple):
    """Main memory of this process, in bytes.

    Attributes:
        free: What it may still take.
        total: What it could take in all.
    """

    free: int
    total: int


def main_memory() -> Room:
    """Return the machine's memory, within the limits of this process's control groups and of its Slurm job.

    The groups are those of a job or a container. They kill a process that exceeds them, however much the machine has left; so does a Slurm
    without control groups, which looks at the processes of a job now and then.
    """
    found = psutil.virtual_memory()
    free, total = found.available, found.total
    for limit, used in (*_limits(Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")), *_of_job(os.environ)):
        free, total = min(free, limit - used), min(total, limit)
    return Room(max(0, free), total)


def _limits(mounted: Path, own: Path) -> Iterator[tuple[int, int]]:
    """Yield the memory limit and use of each control group of this process and of the groups around them, in version 1 and 2.

    Cached files that nobody uses do not count, since the system gives them back first.
    """
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


def _of_job(environment: Mapping[str, str]) -> Iterator[tuple[int, int]]:
    """Yield what Slurm allows a job on this node, as it tells the job, and what this process and its children take of that."""
    given = {name: environment.get(f"SLURM_{name}", "") for name in ("MEM_PER_NODE", "MEM_PER_CPU", "CPUS_ON_NODE")}  # in MiB
    mebibytes = int(given["MEM_PER_NODE"]) if given["MEM_PER_NODE"].isdigit() else 0
    if not mebibytes and given["MEM_PER_CPU"].isdigit() and given["CPUS_ON_NODE"].isdigit():
        mebibytes = int(given["MEM_PER_CPU"]) * int(given["CPUS_ON_NODE"])
    if mebibytes:
        own = psutil.Process()
        yield mebibytes << 20, sum(process.memory_info().rss for process in (own, *own.children(recursive=True)))


def _number(path: Path) -> int | None:
    """Return the number in a file; ``None`` if there is no such file, or no limit ('max')."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def others(device: torch.device) -> int:
    """Return the bytes of the device's memory that other processes hold now; on a GPU this includes what CUDA itself takes for this one."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return max(0, total - free - torch.cuda.memory_reserved(device))
    memory = psutil.virtual_memory()
    return max(0, memory.total - memory.available - psutil.Process().memory_info().rss)


def bandwidth(device: torch.device) -> float:
    """Measure the bytes per second that all threads together read, the median of five runs.

    No decoding at batch 1 can be faster once the weights exceed the caches. The measurement is a sum of 256 MiB, since decoding only reads
    its weights; a copy would also write, which is slower per byte.
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


def release() -> None:
    """Collect garbage, and give back what torch keeps of the GPUs' memory, so that the next model finds it free."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def trim() -> None:
    """Return freed main memory to the system; glibc only. Otherwise it stays in holes that hidden states of other sizes do not fit."""
    if malloc_trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        malloc_trim(0)
