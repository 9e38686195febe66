"""The log of a server, on stderr: sparse, without keys, notes and handles."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import logging


class _Logger:
    """Logs to the logger of the package, and imports `logging` only then.

    With what it imports that takes a sixth of the start of a server, which has nothing to log on most days.
    """

    def __init__(self) -> None:
        self.formats = False
        """Whether this process is a server of ours; in other programs the log is theirs to format."""

    def warning(self, text: str, *values: object) -> None:
        """Log *text*, formatted with *values*."""
        self._logger().warning(text, *values)

    def exception(self, text: str, *values: object) -> None:
        """Log *text*, formatted with *values*, and the exception that is being handled."""
        self._logger().exception(text, *values)

    def _logger(self) -> logging.Logger:
        import logging

        if self.formats:
            form = "mcp-claims: %(levelname)s: %(message)s"
            logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format=form)
        return logging.getLogger("mcp_claims")


logger = _Logger()
