"""The guardian of a command of `run` as it is on macOS; `sitecustomize` makes the product start this in its place.

The product starts it with `-I`, which would hide `sitecustomize` and the bytecode of this run from it.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

sys.pycache_prefix = os.environ["PYTHONPYCACHEPREFIX"]
sys.modules.pop("sitecustomize", None)  # That of the system.
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[3])]
importlib.import_module("sitecustomize")

from mcp_claims.cli import guardian

if __name__ == "__main__":
    guardian.main()
