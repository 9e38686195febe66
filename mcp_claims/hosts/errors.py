"""What can go wrong with the files of hosts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from mcp_claims.errors import ClaimsError, shown_path


class UneditableTextError(Exception):
    """A text cannot be edited safely.  The message continues a sentence that begins with the name of its file."""


class HostFileUneditableError(ClaimsError):
    """The file of a host cannot be edited safely; it was left as it is.

    `where` is the file and `problem` what is wrong with it.
    """

    def __init__(self, where: str | os.PathLike[str], problem: str) -> None:
        super().__init__(where, problem)
        self.where, self.problem = str(where), problem

    def __str__(self) -> str:
        return (
            f"{shown_path(self.where)} {self.problem}. Nothing was changed. Correct it and try again, or paste what "
            "`mcp-claims install HOST --print` prints."
        )


class HostFileUnwritableError(ClaimsError):
    """The file of a host could not be written; it was left as it is.

    `where` is the file and `cause` the error of the operating system.
    """

    def __init__(self, where: str | os.PathLike[str], cause: OSError) -> None:
        super().__init__(where, cause)
        self.where, self.cause = str(where), cause

    def __str__(self) -> str:
        return (
            f"{shown_path(self.where)} cannot be written: {self.cause.strerror or self.cause}. Nothing was changed. Make the "
            "file and its directory writable for this user, or paste what `mcp-claims install HOST --print` prints."
        )


class HostFileChangedError(ClaimsError):
    """Another program has written the file of a host since it was read; that version is kept.

    `where` is the file.
    """

    def __init__(self, where: str | os.PathLike[str]) -> None:
        super().__init__(where)
        self.where = str(where)

    def __str__(self) -> str:
        return (
            f"{shown_path(self.where)} was just changed by another program, probably the host. Its version was kept and "
            "nothing was written. Try again; if the error persists, close the host first."
        )


class HostCommandError(ClaimsError):
    """A host's own command for adding a server does not exist, failed, or did something else.

    `host` is the host and `problem` what went wrong.
    """

    def __init__(self, host: str, problem: str) -> None:
        super().__init__(host, problem)
        self.host, self.problem = host, problem

    def __str__(self) -> str:
        return f"{self.host} {self.problem}. Run `mcp-claims install` without --use-cli: it edits the file itself."


@contextmanager
def naming_file(path: str | os.PathLike[str]) -> Iterator[None]:
    """Raise an `UneditableTextError` of the body as a `HostFileUneditableError` about *path*."""
    try:
        yield
    except UneditableTextError as error:
        raise HostFileUneditableError(path, str(error)) from error
