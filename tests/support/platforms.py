"""Which system the product sees while it is tested: this one, or macOS where the run forces that."""

from __future__ import annotations

import os
import sys

FORCED = "MCP_CLAIMS_FORCED_MACOS"
"""Set in a run by `python -m tests.support.forced_macos`."""

PLATFORM = "darwin" if FORCED in os.environ else sys.platform
