"""All methods and allocations there are: every module of ``methods/`` and ``allocations/``, in alphabetical order."""

from importlib import import_module
from pkgutil import iter_modules

from lottery.pruning import allocations, methods, registry

for package in (methods, allocations):
    for found in iter_modules(package.__path__):
        import_module(f"{package.__name__}.{found.name}")

# Sorted, since modules may have been imported before in any order.
METHODS = dict(sorted(registry.METHODS.items()))
ALLOCATIONS = dict(sorted(registry.ALLOCATIONS.items()))
