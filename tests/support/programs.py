"""Programs that tests run and that a small system lacks."""

from __future__ import annotations

import os
import shutil

import pytest


def installed(name: str, package: str | None = None) -> str:
    """Return the path of program *name*, which is in the Debian package *package*; without it, skip the test.

    Where `CI` is set, fail it: there, nothing may be left out.
    """
    found = shutil.which(name)
    if found is None:
        missing = f"there is no {name}: apt-get install -y --no-install-recommends {package or name}"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    return found
