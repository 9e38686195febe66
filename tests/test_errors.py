"""Errors of the library name neither tools nor options: the surface that shows one adds what its callers can do."""

from __future__ import annotations

import errno
import os

import pytest

from mcp_claims import errors
from mcp_claims.errors import ClaimsError

OS_ERROR = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
EXAMPLES = (
    errors.InvalidInputError("key", "must not be empty"),
    errors.StoreUnavailableError("/claims", OS_ERROR),
    errors.StoreBusyError("/claims/.lock", 5.0),
    errors.LockDirectoryBusyError("/claims/red.lock", 5.0, "is of a process that lives", "End that process."),
    errors.MovedDirectoryError("/claims", ["codex"]),
    errors.ContendedError("red", 1_000),
    errors.UnsafeDirectoryError("/claims", "can be written by others (mode 0777)"),
    errors.ReplaceableDirectoryError("/claims", "belongs to another user (uid 7)", True),
    errors.NotClaimedError("'red' is held by host:1:a", None),
    errors.InvalidSessionError(),
    errors.SessionNeededError(),
    errors.SessionNameRefusedError("counts only in requests with a bearer token"),
    errors.SessionEndedError(),
    errors.ForkedError(),
)


def of_the_library(kind: type[ClaimsError]) -> set[type[ClaimsError]]:
    found = {kind} if kind.__module__ == errors.__name__ else set()
    return found.union(*(of_the_library(each) for each in kind.__subclasses__()))


def test_every_error_is_here() -> None:
    assert {type(each) for each in EXAMPLES} == of_the_library(ClaimsError) - {ClaimsError}


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_an_error_speaks_neither_of_tools_nor_of_options(error: ClaimsError) -> None:
    text = str(error)
    for word in ("open_session", "try_claim", "`session`", "act.", "do not act", " --", "`mcp-claims"):
        assert word not in text, text
    if not isinstance(error, errors.NotClaimedError):
        assert "Nothing" in text or "nothing" in text, text
