"""What can go wrong with the files of hosts."""

from __future__ import annotations

import os

from mcp_claims.errors import ClaimsError, shown_path


class HostFileUnfitError(ClaimsError):
    """The file of a host cannot be edited safely; it was left as it is.

    `where` is the file and `problem` what is wrong with it.
    """

    def __init__(self, where: str | os.PathLike[str], problem: str) -> None:
        super().__init__(where, problem)
        self.where, self.problem = str(where), problem

    def __str__(self) -> str:
        return (
            f"{shown_path(self.where)} {self.problem}. Nothing was changed. Mend it and try again, or put in by hand what "
            "`mcp-claims install HOST --print` shows."
        )


class HostFileUnwritableError(ClaimsError):
    """The file of a host could not be written; it was left as it is.

    `where` is the file and `cause` what the system said.
    """

    def __init__(self, where: str | os.PathLike[str], cause: OSError) -> None:
        super().__init__(where, cause)
        self.where, self.cause = str(where), cause

    def __str__(self) -> str:
        return (
            f"{shown_path(self.where)} cannot be written: {self.cause.strerror or self.cause}. Nothing was changed. Make the "
            "file and its directory writable for this user, or put in by hand what `mcp-claims install HOST --print` "
            "shows."
        )


class HostFileChangedError(ClaimsError):
    """Somebody else has written the file of a host since it was read; their version is what is there.

    `where` is the file.
    """

    def __init__(self, where: str | os.PathLike[str]) -> None:
        super().__init__(where)
        self.where = str(where)

    def __str__(self) -> str:
        return (
            f"{shown_path(self.where)} was changed by somebody else just now. Nothing of it was changed here. Try again; if "
            "it stays so, close the host first."
        )


class HostCommandError(ClaimsError):
    """A host's own command for adding a server is not there, failed, or did something else.

    `host` is the host and `problem` what went wrong.
    """

    def __init__(self, host: str, problem: str) -> None:
        super().__init__(host, problem)
        self.host, self.problem = host, problem

    def __str__(self) -> str:
        return f"{self.host} {self.problem}. Look at its file, and install without --use-cli."
