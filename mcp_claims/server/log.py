"""The log of a server, on stderr: sparse, without keys, notes and handles."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import logging


class _Logger:
    """Logs to the logger of the package; imports `logging` at the first message.

    That import takes a sixth of the start of a server, and most servers never log anything.
    """

    def __init__(self) -> None:
        self.configures_logging = False
        """Whether the first message configures `logging`: for a process of `mcp-claims serve`, never for other programs."""

    def warning(self, text: str, *values: object) -> None:
        """Log *text*, formatted with *values*."""
        self._logger().warning(text, *values)

    def exception(self, text: str, *values: object) -> None:
        """Log *text*, formatted with *values*, and the exception that is being handled."""
        self._logger().exception(text, *values)

    def _logger(self) -> logging.Logger:
        import logging

        if self.configures_logging:
            form = "mcp-claims: %(levelname)s: %(message)s"
            logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format=form)
        return logging.getLogger("mcp_claims")


logger = _Logger()
