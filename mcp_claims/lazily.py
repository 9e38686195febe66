"""Importing a package's public names when they are asked for: a check on the command line needs a tenth of them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping


def lazily(package: str, where: Mapping[str, str]) -> Callable[[str], object]:
    """Return the `__getattr__` of *package* (PEP 562), whose public names are in the modules that *where* says."""

    def look_up(name: str) -> object:
        if name not in where:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        import importlib

        value: object = getattr(importlib.import_module(f"{package}.{where[name]}"), name)
        setattr(sys.modules[package], name, value)
        return value

    return look_up
