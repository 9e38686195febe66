"""A child that does operations of a session, and is killed before one of its steps."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from mcp_claims.session.identity import process_session
from mcp_claims.session.session import Session
from mcp_claims.stores.base import Store
from tests.support.forks import fork

Operation = Callable[[Session], object]

NEVER = 1_000_000
"""A step that no operation makes."""


def killed_at(
    opened: Callable[[Callable[[], None]], Store], at: int, *operations: Operation, uncounted: int = 0
) -> bool:
    """Let a child do *operations* and be killed before step *at*, those of the first *uncounted* apart.

    *opened* returns the store, which calls its argument before each step.  Return whether the child got so far; at the end it
    is killed in any case, with all that it holds.
    """
    reader, writer = os.pipe()
    child = fork()
    if not child:
        # Nothing of the parent's test run may go on in here, whatever happens.
        try:
            left = NEVER

            def kill_at_last() -> None:
                nonlocal left
                left -= 1
                if not left:
                    os.kill(os.getpid(), signal.SIGKILL)

            session = process_session(opened(kill_at_last))
            for number, operation in enumerate(operations):
                if number == uncounted:
                    left = at
                operation(session)
            os.write(writer, b"through")
            os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(1)
    os.close(writer)
    with os.fdopen(reader) as output:
        through = output.read() == "through"
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    return not through
