"""Where a record comes from: commit, versions, machine."""

import platform
import subprocess
from datetime import datetime
from importlib.metadata import version
from importlib.util import find_spec

import torch

from lottery.common.commit import COMMIT, DIRTY
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
