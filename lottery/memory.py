"""Peak memory, since a moment of one's choosing."""

import ctypes
import gc
import re
from pathlib import Path

import psutil
import torch


def reset_peak(device: torch.device) -> None:
    """Lets the peak start anew from what is held now."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif (clear := Path("/proc/self/clear_refs")).exists():
        # What was freed before, the allocator may still hold: it would count as memory of what comes next.
        gc.collect()
        if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
            trim(0)
        clear.write_text("5")  # Linux: the peak of the resident set starts anew from the present size


def peak(device: torch.device) -> tuple[int, str]:
    """The most bytes held since ``reset_peak``, and of what kind: what torch allocated on a GPU, else the resident set of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device), "GPU memory"
    status = Path("/proc/self/status")
    peak = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.exists() else None
    return (int(peak[1]) * 1024 if peak else psutil.Process().memory_info().rss), "resident memory"
