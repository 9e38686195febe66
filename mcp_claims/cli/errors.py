"""Errors at the command line: an exit code, and a message that names the options."""

from __future__ import annotations

from argparse import Namespace

from mcp_claims.errors import ClaimsError, InvalidInputError, StoreBusyError, StoreUnavailableError

YES, NO, USAGE_ERROR, STORE_ERROR = 0, 1, 2, 3

# The option for an argument of the library, where the names differ.
OPTIONS = {
    "key": "KEY",
    "directory": "--dir",
    "url": "--store",
    "pid": "--for-pid",
    "ttl_minutes": "--ttl",
    "wait_seconds": "--wait",
    "retention_hours": "--retention",
}


class UsageError(InvalidInputError):
    """The command line lacks something; `rule` is the whole message."""

    def __init__(self, message: str) -> None:
        super().__init__("", message)

    def __str__(self) -> str:
        return self.rule


def exit_code_of(error: ClaimsError) -> int:
    """Return the exit code for *error*."""
    return USAGE_ERROR if isinstance(error, InvalidInputError) else STORE_ERROR


def describe(error: ClaimsError, options: Namespace) -> str:
    """Return the message of *error* for a person who gave *options*."""
    if isinstance(error, InvalidInputError) and not isinstance(error, UsageError):
        return str(InvalidInputError(_option(error.field, options), error.rule))
    if isinstance(error, StoreUnavailableError | StoreBusyError):
        return f"{error} `mcp-claims doctor` examines the store."
    return str(error)


def _option(argument: str, options: Namespace) -> str:
    """Return the option for the library's *argument*; anything else, such as a variable, keeps its name."""
    if argument == "retention_hours" and "once" in options:
        return "--once"
    if argument in options and argument != "key":
        return f"--{argument.replace('_', '-')}"
    return OPTIONS.get(argument, argument)
