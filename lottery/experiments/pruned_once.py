"""A pruned model from which several trials start: pruned once, its weights lie on disk until the last of them is recorded."""

import json
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file

from lottery.experiments.records import Request, read_record
from lottery.models.blocks import prunable

FOLDER, COST = "pruned", "cost.json"
# What is asked of a model after it was pruned.
AFTERWARDS = {
    "text_sha256": "", "rounder": None, "bits": None, "recovery": None, "loss": None, "prompts": 0, "repeats": 0, "tasks": [],
    "recover_steps": None, "recover_learning_rate": None, "recover_batch_size": None,
}  # fmt: skip


class Cost(NamedTuple):
    """What pruning took: seconds, and bytes of memory at the peak."""

    seconds: float
    peak: int


def name(request: Request) -> str:
    """Return what all requests share that start from the same pruned model."""
    return request.model_copy(update=AFTERWARDS).file_name.removesuffix(".json")


def place(study, request: Request, dtype: torch.dtype) -> Path | None:
    """Return the folder of the pruned weights from which a trial starts, which need not exist.

    Returns:
        ``None`` where they are not to be kept: only this trial starts from them, they are quickly made (without calibration data), or the
        trial is recorded. To measure that again is to prune again.
    """
    variant = request.variant
    if not variant.one_shot or not variant.unchanged.calibrated or read_record(study.folder, request) is not None:
        return None
    shared = [other for other in study.requests if other.variant.one_shot and name(other) == name(request)]
    if len(shared) < 2:
        return None
    return study.folder / FOLDER / f"{name(request)}-{str(dtype).removeprefix('torch.')}-{study.plan.device.type}"


def save(model: torch.nn.Module, folder: Path, cost: Cost) -> None:
    """Write the weights of all prunable layers, one at a time: the folder appears whole or not at all.

    Raises:
        OSError, SafetensorError: They could not be written, for example because the disk is full. Nothing is left of them.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        for layer_name, layer in prunable(model).items():
            save_file({"weight": layer.weight.detach().cpu().contiguous()}, part / f"{layer_name}.safetensors")
        (part / COST).write_text(json.dumps(cost._asdict()), encoding="utf-8")
        if not folder.is_dir():  # or another run of the same model wrote the same
            os.replace(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


@torch.no_grad()
def restore(model: torch.nn.Module, folder: Path) -> Cost | None:
    """Give a dense model the weights that were written, and return what pruning took; ``None`` where there are none."""
    if not folder.is_dir():
        return None
    for layer_name, layer in prunable(model).items():
        layer.weight.copy_(load_file(folder / f"{layer_name}.safetensors")["weight"])
    return Cost(**json.loads((folder / COST).read_text(encoding="utf-8")))


def tidy(study, recorded: Request) -> None:
    """Remove what only ``recorded``, which is about to be recorded, starts from, and what a killed run left of it half written."""
    needed = {name(other) for other in study.requests if other != recorded and read_record(study.folder, other) is None}
    for path in (study.folder / FOLDER).glob("*"):
        if not any(path.name.removeprefix(".").startswith(kept) for kept in needed):
            shutil.rmtree(path, ignore_errors=True)
    with suppress(OSError):  # not there, or not empty
        (study.folder / FOLDER).rmdir()
