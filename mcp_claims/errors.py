"""What can go wrong, as types that carry their evidence and end with what to do next."""

from __future__ import annotations

import errno
import os

_FREE_SPACE = "Free some space on that file system"
_PERMIT = "Make the directory writable for this user, or choose another with --dir or MCP_CLAIMS_DIR"
_CLOSE_FILES = "Let the process open more files (`ulimit -n`)"
_ALLOW_FILES = "Let the process write larger files (`ulimit -f`)"
_CLEAR = "Something else is where a claim or a directory of claims belongs: move it away"
_REMEDIES = {
    errno.ENOSPC: _FREE_SPACE,
    errno.EDQUOT: _FREE_SPACE,
    errno.EACCES: _PERMIT,
    errno.EPERM: _PERMIT,
    errno.EROFS: _PERMIT,
    errno.EMFILE: _CLOSE_FILES,
    errno.ENFILE: _CLOSE_FILES,
    errno.EFBIG: _ALLOW_FILES,
    errno.ENOTDIR: _CLEAR,
    errno.EISDIR: _CLEAR,
    errno.ENOTEMPTY: _CLEAR,
    errno.ETIMEDOUT: "Let `mcp-claims doctor` tell which of its nodes serve",
    errno.EPROTO: "Let `mcp-claims doctor` tell what it refuses",
    errno.EEXIST: _CLEAR,
}


def shown_path(path: str) -> str:
    """Return *path* fit for a message: a name may hold line breaks, or bytes that are no text."""
    return path if path.isprintable() else repr(path)


class ClaimsError(Exception):
    """Base of every error that this package raises on purpose."""


class InvalidInputError(ClaimsError, ValueError):
    """An argument breaks a rule; nothing was changed.

    `field` names the argument and `rule` says what it has to be.
    """

    def __init__(self, field: str, rule: str) -> None:
        super().__init__(field, rule)
        self.field, self.rule = field, rule

    def __str__(self) -> str:
        return f"{self.field} {self.rule}. Nothing was changed; call again with {self.field} corrected."


class StoreUnavailableError(ClaimsError):
    """The store could not answer; nothing was claimed, nothing was released.

    `where` is the file or directory in question and `cause` what the system said.
    """

    def __init__(self, where: str | os.PathLike[str], cause: OSError) -> None:
        super().__init__(where, cause)
        self.where, self.cause = str(where), cause

    def __str__(self) -> str:
        reason = self.cause.strerror or str(self.cause)
        remedy = _REMEDIES.get(self.cause.errno or 0, "Look at that place")
        return (
            f"the claims store cannot be used: {reason} ({shown_path(self.where)}). Nothing was changed and nothing "
            f"is claimed, so do not act. {remedy}, then try again."
        )


class StoreBusyError(ClaimsError):
    """Another process has been changing the namespace for as long as we were ready to wait.

    `where` is the lock file and `waited` the seconds spent.
    """

    def __init__(self, where: str | os.PathLike[str], waited: float) -> None:
        super().__init__(where, waited)
        self.where, self.waited = str(where), waited

    def __str__(self) -> str:
        return (
            f"another process has kept the lock {shown_path(self.where)} for {self.waited:.1f} s; it is probably stopped. "
            "Nothing was changed and nothing is claimed, so do not act. Other namespaces are not affected. "
            "Try again; if it stays so, `mcp-claims doctor` names the process to end."
        )


class ContendedError(ClaimsError):
    """The key was changed by others, each time between our read and our write, too often to go on.

    `key` is the key and `rounds` how often that happened.
    """

    def __init__(self, key: str, rounds: int) -> None:
        super().__init__(key, rounds)
        self.key, self.rounds = key, rounds

    def __str__(self) -> str:
        return (
            f"others have changed the claim on {self.key!r} {self.rounds} times while this call tried to. Nothing is "
            "claimed, so do not act. Try again."
        )


class LockDirectoryBusyError(StoreBusyError):
    """A session of agent-awareness has been changing the key for as long as we were ready to wait.

    `where` is its lock directory.
    """

    def __str__(self) -> str:
        return (
            f"the lock {self.where} has been there for {self.waited:.1f} s; its owner is alive, but probably stopped. "
            "Nothing was changed and nothing is claimed, so do not act. Other keys are not affected. Try again; if it "
            "stays so, end the process whose PID is in the lock's meta.json, or remove the lock if that is no agent."
        )


class UnsafeDirectoryError(ClaimsError):
    """The claims directory could be changed by other users, who could forge or remove claims.

    `where` is the directory and `problem` what is wrong with it.
    """

    def __init__(self, where: str | os.PathLike[str], problem: str) -> None:
        super().__init__(where, problem)
        self.where, self.problem = str(where), problem

    def __str__(self) -> str:
        return (
            f"the claims directory {shown_path(self.where)} {self.problem}. Nothing was changed. "
            f"Make it yours alone (`chmod 700 {shown_path(self.where)}`) or choose another with --dir or MCP_CLAIMS_DIR."
        )


class InvalidSessionError(ClaimsError):
    """The `session` of a call is no handle that was given to this caller; which of its faults it is stays untold."""

    def __str__(self) -> str:
        return (
            "session is not a handle that this caller was given here. Nothing was changed. Pass exactly what "
            "open_session returned, or call open_session for a new one."
        )


class SessionNeededError(ClaimsError):
    """The connection does not say who is calling, so the call has to."""

    def __str__(self) -> str:
        return (
            "this connection has no session of its own. Nothing was changed and nothing is claimed. Call open_session "
            "once, then pass what it returns as `session` with each call."
        )


class SessionEndedError(ClaimsError):
    """The session has released its claims and must not take new ones."""

    def __str__(self) -> str:
        return "this session has ended and its claims are released; nothing was changed. Open a new session."


class ForkedError(ClaimsError):
    """A forked child used its parent's session: both would believe that they are the holder."""

    def __str__(self) -> str:
        return (
            "this session belongs to the parent process; a forked child that used it would share its claims. "
            "Nothing was changed. Open a session of its own in the child."
        )
