"""All methods and allocations there are: every module of ``methods/`` and ``allocations/``, in the order of their names."""

from importlib import import_module
from pkgutil import iter_modules

from lottery.pruning import allocations, methods
from lottery.pruning.registry import ALLOCATIONS, METHODS

__all__ = ["ALLOCATIONS", "METHODS"]

for package in (methods, allocations):
    for found in iter_modules(package.__path__):
        import_module(f"{package.__name__}.{found.name}")
