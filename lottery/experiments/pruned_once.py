"""A pruned model from which several trials in a row start: pruned once, its weights wait on disk for the next of them."""

import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file

from lottery.common.format import size
from lottery.experiments.records import Request
from lottery.models.blocks import prunable

FOLDER = "pruned"


class Cost(NamedTuple):
    """What pruning took: seconds, and bytes of memory at the peak."""

    seconds: float
    peak: int


def name(request: Request) -> str:
    """Return what all requests of a study share that start from the same pruned model."""
    only_pruned = {**request.variant.unchanged._asdict(), "prompts": 0, "repeats": 0}  # a bisection only scores
    return request.model_copy(update=only_pruned).key


def asked_next(study, request: Request) -> bool:
    """Say whether the next trial to be measured starts from the same pruned model, and pruning that takes long: it needs calibration data.

    A trial that is recorded already is measured again to compare, so it is pruned again.
    """
    if not request.variant.one_shot or not request.variant.unchanged.calibrated:
        return False
    missing = study.missing(study.requests)
    after = missing[missing.index(request) + 1 :] if request in missing else []
    return bool(after) and after[0].variant.one_shot and name(after[0]) == name(request)


class Kept:
    """The weights of one pruned model, for as long as this process lives: another one may have other code, or another machine."""

    def __init__(self, folder: Path):
        self.parent = folder / FOLDER
        self.of: tuple[str, torch.dtype] | None = None
        self.cost: Cost | None = None
        self._folder: tempfile.TemporaryDirectory | None = None

    def keep(self, model: torch.nn.Module, request: Request, cost: Cost) -> None:
        """Write the weights of all prunable layers, one at a time.

        Raises:
            OSError, SafetensorError: They cannot be written. Nothing is left of them.
        """
        self.drop()
        layers = prunable(model)
        self.parent.mkdir(parents=True, exist_ok=True)
        taken, free = sum(layer.weight.nbytes for layer in layers.values()), shutil.disk_usage(self.parent).free
        if free < 2 * taken:  # the other half is for records, also those of other runs
            raise OSError(f"they take {size(taken)}, and {size(free)} are free")
        self._folder = tempfile.TemporaryDirectory(dir=self.parent)
        try:
            for layer_name, layer in layers.items():
                save_file({"weight": layer.weight.detach().cpu().contiguous()}, self._file(layer_name))
        except BaseException:
            self.drop()
            raise
        self.of, self.cost = (name(request), model.dtype), cost

    @torch.no_grad()
    def restore(self, model: torch.nn.Module, request: Request) -> Cost | None:
        """Give a dense model the weights that were kept for a request, and return what pruning took; ``None`` where others are kept."""
        if self.of != (name(request), model.dtype):
            return None
        for layer_name, layer in prunable(model).items():
            layer.weight.copy_(load_file(self._file(layer_name))["weight"])
        return self.cost

    def drop(self) -> None:
        """Remove what is kept."""
        if self._folder:
            self._folder.cleanup()
        self.of = self.cost = self._folder = None

    def _file(self, layer_name: str) -> Path:
        return Path(self._folder.name) / f"{layer_name}.safetensors"
