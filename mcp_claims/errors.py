"""What can go wrong, as types that carry their evidence; a message says what was changed, and what helps everywhere.

The messages know no command line and no tool: the surface that shows one adds what its own callers can do.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence

_FREE_SPACE = "Free some space on that file system"
_PERMIT = "Make the directory writable for this user, or choose another with MCP_CLAIMS_DIR"
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
    errno.EEXIST: _CLEAR,
    errno.ETIMEDOUT: "Find out which of its nodes answer",
    errno.EPROTO: "Find out what it refuses",
}
_NOTHING_CLAIMED = "Nothing was changed and nothing is claimed."
# True of every store.  A request that was sent and not answered may have taken effect: a release or a renewal, or a
# grant that the store undoes as soon as it answers.
_NOTHING_NEW = "You hold nothing new; a change may have been made all the same."
_NOT_KNOWN = "It is not known whether the change was made: a release may have been, but you hold nothing new."


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
        return f"{self.field} {self.rule}. Nothing was changed."


class StoreUnavailableError(ClaimsError):
    """The store could not answer; the caller holds nothing new.

    A change that was under way may have been made all the same, above all over a network: read again.  With
    `outcome_unknown` it was sent, and no answer came.  `where` is the file, directory or cluster, and `cause` the error of the
    operating system or of the cluster.
    """

    def __init__(self, where: str | os.PathLike[str], cause: OSError, outcome_unknown: bool = False) -> None:
        super().__init__(where, cause)
        self.where, self.cause, self.outcome_unknown = str(where), cause, outcome_unknown

    def __str__(self) -> str:
        reason = self.cause.strerror or str(self.cause)
        remedy = _REMEDIES.get(self.cause.errno or 0, "Check that place")
        return (
            f"the claims store cannot be used: {reason} ({shown_path(self.where)}). "
            f"{_NOT_KNOWN if self.outcome_unknown else _NOTHING_NEW} {remedy}, "
            "then try again."
        )


class StoreBusyError(ClaimsError):
    """Another process has been changing the namespace for longer than the lock timeout.

    `where` is the lock file and `waited` the seconds spent.
    """

    def __init__(self, where: str | os.PathLike[str], waited: float) -> None:
        super().__init__(where, waited)
        self.where, self.waited = str(where), waited

    def __str__(self) -> str:
        return (
            f"another process has kept the lock {shown_path(self.where)} for {self.waited:.1f} s; it is probably "
            f"stopped. {_NOTHING_CLAIMED} Other namespaces are not affected. Try again; if it stays so, end that process."
        )


class LockDirectoryBusyError(StoreBusyError):
    """The lock directory of agent-awareness for the key has been there for longer than the lock timeout.

    `where` is the lock, `state` how it stands and `remedy` what to do about it.
    """

    def __init__(self, where: str | os.PathLike[str], waited: float, state: str, remedy: str) -> None:
        super().__init__(where, waited)
        self.args = (where, waited, state, remedy)
        self.state, self.remedy = state, remedy

    def __str__(self) -> str:
        return (
            f"the lock of this key in the directory of agent-awareness was not released within {self.waited:.1f} s: "
            f"{shown_path(self.where)} {self.state}. "
            f"{_NOTHING_CLAIMED} Other keys are not affected. {self.remedy}"
        )


class MovedDirectoryError(StoreUnavailableError):
    """Sessions of agent-awareness no longer look into the claims directory `where`, but into those of `providers`."""

    def __init__(self, where: str | os.PathLike[str], providers: Sequence[str]) -> None:
        super().__init__(where, OSError(errno.ESTALE, "agent-awareness has moved its claims", str(where)))
        self.args = (where, providers)
        self.providers = providers

    def __str__(self) -> str:
        return (
            f"sessions of agent-awareness no longer look into {shown_path(self.where)}: since version 0.5 each provider has "
            f"a directory of its own ({', '.join(self.providers)}). {_NOTHING_CLAIMED} Restart this program with the "
            "provider whose sessions you run."
        )


class ContendedError(ClaimsError):
    """Others changed the key between our read and our write, `rounds` times in a row.

    `key` is the key.
    """

    def __init__(self, key: str, rounds: int) -> None:
        super().__init__(key, rounds)
        self.key, self.rounds = key, rounds

    def __str__(self) -> str:
        return f"others changed the claim on {self.key!r} {self.rounds} times during this call. Nothing is claimed. Try again."


class UnsafeDirectoryError(ClaimsError):
    """Other users could change the claims directory, and so forge or remove claims.

    `where` is the directory, `problem` what is wrong with it and `remedy` what to do about it.
    """

    def __init__(self, where: str | os.PathLike[str], problem: str, remedy: str | None = None) -> None:
        super().__init__(where, problem, remedy)
        self.where, self.problem = str(where), problem
        self.remedy = remedy or f"Make it yours alone (`chmod 700 {shown_path(self.where)}`)"

    def __str__(self) -> str:
        return (
            f"the claims directory {shown_path(self.where)} {self.problem}. {_NOTHING_CLAIMED} {self.remedy}, "
            "or choose another with MCP_CLAIMS_DIR."
        )


class ReplaceableDirectoryError(UnsafeDirectoryError):
    """Other users could put another directory into the place of the claims directory.

    `where` is the directory or the link above it that they could change; it is theirs if *foreign*.
    """

    def __init__(self, where: str | os.PathLike[str], problem: str, foreign: bool) -> None:
        remedy = (
            # Its owner can always change it, whatever its mode; and it may be the home.
            "Choose with MCP_CLAIMS_DIR a directory below ones that belong to this user or root"
            if foreign
            else f"Let nobody else change it (`chmod go-w {shown_path(str(where))}`, as its owner), or choose a directory in "
            "your home with MCP_CLAIMS_DIR"
        )
        super().__init__(where, problem, remedy)

    def __str__(self) -> str:
        return (
            f"others can replace the claims directory: {shown_path(self.where)} {self.problem}. {_NOTHING_CLAIMED} "
            f"{self.remedy}."
        )


class NotClaimedError(ClaimsError):
    """`Session.claim` did not get the key; `reason` says who has it or has done the work, `result` is the refusal."""

    def __init__(self, reason: str, result: object) -> None:
        super().__init__(reason, result)
        self.reason, self.result = reason, result

    def __str__(self) -> str:
        return self.reason


class InvalidSessionError(ClaimsError):
    """The `session` of a call is not a handle that was issued to this caller; the error does not say why."""

    def __str__(self) -> str:
        return f"session is not a handle that was issued to this caller here. {_NOTHING_CLAIMED}"


class SessionNeededError(ClaimsError):
    """Neither the connection nor the call identifies the session."""

    def __str__(self) -> str:
        return f"this connection has no session of its own. {_NOTHING_CLAIMED}"


class SessionNameRefusedError(ClaimsError):
    """The name that a caller gives its session does not identify one; `rule` says what is missing."""

    def __init__(self, rule: str) -> None:
        super().__init__(rule)
        self.rule = rule

    def __str__(self) -> str:
        return f"the name of the session {self.rule}. {_NOTHING_CLAIMED}"


class SessionEndedError(ClaimsError):
    """The session has released its claims and takes no new ones."""

    def __str__(self) -> str:
        return "this session has ended and its claims are released. Nothing was changed. A new session can claim."


class ForkedError(ClaimsError):
    """A forked child used its parent's session: both would act as the same holder."""

    def __str__(self) -> str:
        return (
            "this session belongs to the parent process; a forked child that used it would share its claims. "
            f"{_NOTHING_CLAIMED} The child needs a session of its own."
        )
