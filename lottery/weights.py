"""A checkpoint's weights on disk, read one tensor or a stretch of its rows at a time."""

import json

import torch
from safetensors import safe_open
from torch import nn

from lottery.checkpoints import Checkpoint
from lottery.errors import LotteryError


class Weights:
    """Where on disk each parameter of a model is.

    **Arguments**: the checkpoint; its model, on the meta device. **Raises** ``LotteryError`` where a parameter is not in the files under
    its own name and with its own shape: such a checkpoint is converted on loading, and can only be loaded as a whole.
    """

    def __init__(self, checkpoint: Checkpoint, model: nn.Module):
        folder = checkpoint.folder
        index = folder / "model.safetensors.index.json"
        files = sorted(set(json.loads(index.read_text())["weight_map"].values())) if index.exists() else ["model.safetensors"]
        self._file, shapes = {}, {}
        for path in (folder / name for name in files):
            with safe_open(path, framework="pt") as file:
                for key in file.keys():  # noqa: SIM118, an open file is no dictionary
                    self._file[key], shapes[key] = path, tuple(file.get_slice(key).get_shape())
        for name, parameter in model.named_parameters():
            if shapes.get(name) != tuple(parameter.shape):
                raise LotteryError(
                    f"{checkpoint.label} cannot be streamed: its files do not hold {name} as the model has it; set memory: resident"
                )

    def copy_(self, target: torch.Tensor, name: str, start: int = 0) -> torch.Tensor:
        """Fills ``target`` with a parameter's rows from ``start`` on, in the target's dtype and on its device. **Returns** it.

        Files are mapped, not read: only what is copied becomes resident, and it is given back at once.
        """
        with safe_open(self._file[name], framework="pt") as file:
            return target.copy_(file.get_tensor(name)[start : start + len(target)])

    def rows(self, name: str, indices: torch.Tensor) -> torch.Tensor:
        """Some rows of a parameter, in the dtype of the file."""
        with safe_open(self._file[name], framework="pt") as file:
            return file.get_tensor(name)[indices]


class Slots:
    """Room for one block on a device, filled again and again: memory that is freed and asked for anew falls to pieces."""

    def __init__(self, weights: Weights, device: torch.device, dtype: torch.dtype):
        self.weights, self.device, self.dtype = weights, device, dtype
        self._room: dict[tuple, torch.Tensor] = {}

    def fill(self, module: nn.Module, prefix: str) -> None:
        """Gives a module its parameters; ``prefix``, its name in the model. What the room held before is overwritten."""
        for name, parameter in list(module.named_parameters()):
            key = name, parameter.shape
            if key not in self._room:
                self._room[key] = torch.empty(parameter.shape, device=self.device, dtype=self.dtype)
            value = self.weights.copy_(self._room[key], f"{prefix}.{name}")
            owner, _, last = name.rpartition(".")
            module.get_submodule(owner)._parameters[last] = nn.Parameter(value, requires_grad=False)

    def clear(self, module: nn.Module) -> None:
        """Takes a module's parameters away; shapes stay."""
        for name, parameter in list(module.named_parameters()):
            owner, _, last = name.rpartition(".")
            module.get_submodule(owner)._parameters[last] = nn.Parameter(parameter.to("meta"), requires_grad=False)
