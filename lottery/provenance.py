"""Where a record comes from: commit, versions, machine."""

import platform
import subprocess
from datetime import datetime
from importlib.metadata import version

import torch

from lottery.errors import LotteryError
from lottery.loading import Plan, describe
from lottery.paths import project_root
from lottery.records import Provenance, slurm_job

_PACKAGES = ("lottery", "torch", "transformers", "tokenizers", "safetensors", "numpy")


def provenance(plan: Plan, started: datetime) -> Provenance:
    """The provenance of a trial that began at ``started`` and ends now. No host, user, path or environment is recorded."""
    versions = {"python": platform.python_version()} | {name: version(name) for name in _PACKAGES}
    if plan.device.type == "cuda":
        versions |= {"cuda": torch.version.cuda, "driver": _driver()}
    commit, dirty = commit_now()
    return Provenance(
        commit=commit,
        dirty=dirty,
        versions=versions,
        machine=f"{platform.system()} {platform.machine()}",
        device=describe(plan.device),
        dtype=str(plan.dtype).removeprefix("torch."),
        dtype_reason=plan.dtype_reason,
        memory_plan="streamed" if plan.streamed else "resident",
        memory_reason=plan.memory_reason,
        threads=torch.get_num_threads(),
        started=started,
        finished=datetime.now().astimezone(),
        slurm_job=slurm_job(),
    )


def _driver() -> str:
    """The version of the GPU's driver; 'unknown' where nobody tells."""
    try:
        line = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        return subprocess.run(line, capture_output=True, text=True, check=True, timeout=20).stdout.split()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return "unknown"


def commit_now() -> tuple[str, bool]:
    """The commit of the project's folder and whether tracked files differ from it; 'unknown' outside a git checkout."""
    try:
        root = project_root()
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=True).stdout.strip()
        status = subprocess.run(["git", "status", "--porcelain", "-uno"], cwd=root, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError, LotteryError):
        return "unknown", False
    return commit, bool(status.strip())
