"""The history that a store keeps, as stores and sessions write it: what was changed, who was refused, who has lost a claim.

Nothing here fails: a change stands whether its line can be written or not.  What writes the lines is imported before the first
change, so that no start pays for it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from mcp_claims.errors import InvalidInputError
from mcp_claims.model.records import Claim, Found, Holder, ScopedKey
from mcp_claims.stores.base import Change
from mcp_claims.stores.files.filesystem import FileSystem

if TYPE_CHECKING:
    from mcp_claims.liveness import Machine
    from mcp_claims.stores.history.log import Log

DIRECTORY = ".history"
"""In the claims directory, where no namespace has a name with a leading dot."""

DAYS_VARIABLE, MEGABYTES_VARIABLE = "MCP_CLAIMS_HISTORY_DAYS", "MCP_CLAIMS_HISTORY_MEGABYTES"
_reported_in: set[int] = set()
_MAX_DAYS, _MAX_MEGABYTES = 3_650, 1_048_576


class Limits(NamedTuple):
    """How long a history is kept, and how large it may become; 0 of either means that none is written."""

    days: int = 30
    megabytes: int = 64

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Limits:
        """Return the limits that the variables in *environment* set; raises `InvalidInputError`."""
        return cls(
            _number(environment, DAYS_VARIABLE, cls().days, _MAX_DAYS),
            _number(environment, MEGABYTES_VARIABLE, cls().megabytes, _MAX_MEGABYTES),
        )


class History:
    """The history in *directory*, by the clock of *machine*, that of this process by default."""

    def __init__(
        self, directory: str, limits: Limits, *, fs: FileSystem | None = None, machine: Machine | None = None
    ) -> None:
        self.directory, self.limits = directory, limits
        self.is_kept = all(limits)
        """Whether anything is written."""
        self._fs, self._machine = fs, machine
        self._log: Log | None = None

    def prepare(self) -> None:
        """Import what writes the lines, unless that is done: before a lock is taken, which others wait for."""
        if self._log is None and self.is_kept:
            try:
                from mcp_claims.liveness import local_machine
                from mcp_claims.stores.history.log import Log
            except (ImportError, OSError) as error:
                # As in a process that is another user by now, and may not read the package any more.
                self.is_kept = False
                report_once(self.directory, error)
            else:
                machine = self._machine or local_machine()
                self._log = Log(self.directory, self.limits, self._fs or FileSystem(), machine)

    def changed(
        self,
        changes: Sequence[Change],
        traces: Sequence[Claim | None] = (),
        revision: int | None = None,
        passed: Sequence[Claim] = (),
    ) -> None:
        """Note *changes*, made at *revision*; *traces* are of claims in their places that the store had ended by itself.

        *passed* are claims on files that overlap with them, and were not in their way.
        """
        if self._log is not None:
            self._log.changed(changes, traces, revision, passed)

    def ending(self, changes: Sequence[Change], passed: Sequence[Claim] = ()) -> None:
        """Note what *changes* end, right before they are made; *passed* as in `changed`."""
        if self._log is not None:
            self._log.ending(changes, passed)

    def begun(self, changes: Sequence[Change]) -> None:
        """Note what *changes*, which have been made, begin or go on with; `ending` has noted the rest."""
        if self._log is not None:
            self._log.begun(changes)

    def kept(self, changes: Sequence[Change]) -> None:
        """Note that *changes*, of which `ending` was told, were not made."""
        if self._log is not None:
            self._log.kept(changes)

    def removed(self, scoped: ScopedKey, problem: str) -> None:
        """Note that what could not be read at *scoped*, because of *problem*, is gone; the key is empty if nobody knows it."""
        self.prepare()
        if self._log is not None:
            self._log.removed(scoped, problem)

    def refused(self, asked: Sequence[ScopedKey], holder: Holder, found: Found) -> None:
        """Note that the session of *holder* was refused the keys *asked*, since *found* is there."""
        self.prepare()
        if self._log is not None:
            self._log.refused(asked, holder, found)

    def lost(self, grant: Claim, found: Found) -> None:
        """Note that the session of *grant* has learned that it no longer holds that; *found* is there instead."""
        self.prepare()
        if self._log is not None:
            self._log.lost(grant, found)

    def session_ends(self, holder: Holder) -> None:
        """Note the refusals of the session of *holder* that are not in a line yet."""
        if self._log is not None:
            self._log.session_ends(holder)


def report_once(directory: str, error: Exception) -> None:
    """Report that the history in *directory* cannot be written; once in each process, a forked child included."""
    if os.getpid() in _reported_in:
        return
    _reported_in.add(os.getpid())
    # Imported here: it takes a sixth of the start of a server, and most never log anything.
    import logging

    logger = logging.getLogger("mcp_claims")
    logger.warning("the history in %s cannot be written (%s); claims go on without it", directory, error)


def _number(environment: Mapping[str, str], variable: str, default: int, most: int) -> int:
    text = environment.get(variable, "").strip()
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(most)) and int(text) <= most):
        raise InvalidInputError(variable, f"must be a whole number from 0, which keeps no history, to {most}")
    return int(text)
