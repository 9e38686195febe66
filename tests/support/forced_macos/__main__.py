"""`python -m tests.support.forced_macos [ARGUMENTS]`: run pytest with all that the product does on macOS, on Linux."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from tests.support.platforms import FORCED

HERE = Path(__file__).parent


def main() -> None:
    # Bytecode apart from that of other runs: the modules of the product are compiled with other imports.
    cache = Path(tempfile.gettempdir(), f"mcp-claims-forced-macos-{os.getuid()}")
    environment = os.environ | {
        FORCED: "1",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH", "")])),
        "PYTHONPYCACHEPREFIX": str(cache),
    }
    os.execvpe(sys.executable, [sys.executable, "-m", "pytest", *sys.argv[1:]], environment)


if __name__ == "__main__":
    main()
