"""What a package holds, so that something new in it is one new file."""

import importlib
import pkgutil
from collections.abc import Iterator
from types import ModuleType


def values(package: ModuleType) -> Iterator[object]:
    """What the modules of a package have a name for, by the names of the modules."""
    for found in pkgutil.iter_modules(package.__path__):
        yield from vars(importlib.import_module(f"{package.__name__}.{found.name}")).values()
