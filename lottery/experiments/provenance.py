"""Where a record comes from: commit, versions, machine."""

import os
import platform
import subprocess
from datetime import datetime
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import torch

from lottery.common.format import dtype_name
from lottery.experiments.records import Provenance, slurm_job
from lottery.models.devices import describe
from lottery.models.loading import Plan

_PACKAGES = ("lottery", "torch", "transformers", "tokenizers", "safetensors", "numpy", "accelerate", "datasets")
_EXTRAS = ("lm_eval",)  # recorded where they are installed


def provenance(plan: Plan, started: datetime, batch_size: int | None = None) -> Provenance:
    """Return the provenance of a trial that ends now. No host, user, path or environment is recorded.

    Args:
        plan: Where and how the model ran.
        started: When the trial began.
        batch_size: How many windows were scored at a time.
    """
    versions = {"python": platform.python_version()} | {name: version(name) for name in _PACKAGES}
    versions |= {name: version(name) for name in _EXTRAS if find_spec(name)}
    if plan.device.type == "cuda":
        versions |= {"cuda": torch.version.cuda, "driver": _driver()}
    return Provenance(
        commit=COMMIT,
        dirty=DIRTY,
        versions=versions,
        machine=f"{platform.system()} {platform.machine()}",
        device=describe(plan.device),
        dtype=dtype_name(plan.dtype),
        dtype_reason=plan.dtype_reason,
        memory_plan="streamed" if plan.streamed else "resident",
        memory_reason=plan.memory_reason,
        threads=torch.get_num_threads(),
        batch_size=batch_size,
        started=started,
        finished=datetime.now().astimezone(),
        slurm_job=slurm_job(),
    )


def _driver() -> str:
    """Return the version of the GPU's driver; 'unknown' where nothing tells."""
    try:
        line = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        return subprocess.run(line, capture_output=True, text=True, check=True, timeout=20).stdout.split()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return "unknown"


def commit_of(folder: Path, *pathspec: str) -> tuple[str, bool]:
    """Return the commit that a folder's files belong to, and whether any of them differ from it or are not in it.

    The commit is 'unknown' for files that git does not know.

    Args:
        folder: A folder of a checkout.
        *pathspec: What of the folder counts, as ``git status`` takes it; all of it unless given.
    """

    # A hook's environment names another checkout.
    environment = {name: value for name, value in os.environ.items() if name not in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")}

    def git(*arguments: str) -> str:
        line = ["git", "-C", str(folder), *arguments]
        return subprocess.run(line, capture_output=True, text=True, check=True, env=environment).stdout.strip()

    try:
        if not git("ls-files", "."):
            return "unknown", False
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--untracked-files=all", "--", ".", *pathspec))
    except (OSError, subprocess.CalledProcessError):
        return "unknown", False


# Read once, when this code was loaded: a later pull changes the files, not what runs.
COMMIT, DIRTY = commit_of(Path(__file__).parents[1])
