"""The stores that the commands in hosts' files lead to."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from mcp_claims.errors import InvalidInputError
from mcp_claims.hosts import Launch, UserEnvironment
from mcp_claims.stores.config import choose_store

_STORE_OPTIONS = {"--dir": "directory", "--layout": "layout", "--provider": "provider", "--store": "url"}


def stores_of(launch: Launch, user: UserEnvironment) -> set[str]:
    """Return the stores that a command may use: with the variables of *user*, and in a host that passes on none of them."""
    # Named, since platformdirs would look at the variable of this process.
    bare = {"XDG_STATE_HOME": str(user.home / ".local" / "state")} if user.platform == "linux" else {}
    return {store_of(launch.arguments, {**each, **launch.variables}) for each in (user.environment, bare)}


def store_of(arguments: Sequence[str], environment: Mapping[str, str]) -> str:
    """Return the store that *arguments* choose in *environment*: a directory without links, or a URL."""
    options: dict[str, str] = {}
    for word, following in zip(arguments, (*arguments[1:], ""), strict=False):
        option, equals, value = word.partition("=")
        if option in _STORE_OPTIONS:
            options[_STORE_OPTIONS[option]] = value if equals else following
    try:
        choice = choose_store(options.pop("directory", None), **options, environment=environment)
    except InvalidInputError as error:
        return f"none ({error})"
    return choice.url or os.path.realpath(choice.directory)
