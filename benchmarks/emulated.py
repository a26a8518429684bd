"""A device without one: the meta device stands for a GPU. What is there has shapes and no values, and is counted."""

import weakref
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

DEVICE = torch.device("meta")


class Held(TorchDispatchMode):
    """Bytes of the tensors that are alive on the device, and the most there ever were."""

    now = peak = 0

    def __init__(self):
        super().__init__()
        self._known = weakref.WeakKeyDictionary()

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        if function is torch.ops.aten._local_scalar_dense.default and arguments[0].device == DEVICE:
            return True  # transformers asks whether all positions follow on one another
        result = function(*arguments, **(keywords or {}))
        self.count(tree_leaves(result))
        return result

    def count(self, values: list) -> None:
        for tensor in values:
            if isinstance(tensor, torch.Tensor) and tensor.device == DEVICE:
                storage = tensor.untyped_storage()
                if storage not in self._known:
                    self._known[storage] = None
                    self.now += storage.nbytes()
                    self.peak = max(self.peak, self.now)
                    weakref.finalize(storage, self._gone, storage.nbytes())

    def _gone(self, size: int) -> None:
        self.now -= size


class _Back(TorchFunctionMode):
    """Lets values come back from the device: noughts."""

    def __torch_function__(self, function, types, arguments=(), keywords=None):
        given = (*arguments, *(keywords or {}).values())
        if function in (torch.Tensor.cpu, torch.Tensor.to) and given[0].device == DEVICE:
            devices = [one for one in given[1:] if isinstance(one, torch.device)]
            dtypes = [one for one in given[1:] if isinstance(one, torch.dtype)]
            if function is torch.Tensor.cpu or torch.device("cpu") in devices:
                return torch.zeros(given[0].shape, dtype=(dtypes or [given[0].dtype])[0])
        return function(*arguments, **(keywords or {}))


@contextmanager
def _moved(modules, device):
    """What ``moved`` does, but what comes back is what was there before."""
    before = []
    for module in (part for whole in modules for part in whole.modules() if device):
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None and tensor.device != device:
                    before.append((tensors, name, tensor))
                    there = tensor.detach().to(device)
                    tensors[name] = nn.Parameter(there, requires_grad=False) if tensors is module._parameters else there
    yield
    for tensors, name, tensor in before:
        tensors[name] = tensor


@contextmanager
def device():
    """Blocks can be streamed to ``DEVICE`` meanwhile. **Returns** what is held there."""
    with ExitStack() as stack:
        for room in ("lottery.evaluation.evaluate", "lottery.models.calls", "lottery.pruning.walk", "lottery.pruning.prune"):
            stack.enter_context(patch(f"{room}.moved", _moved))
        stack.enter_context(_Back())
        yield stack.enter_context(Held())
