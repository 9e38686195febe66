"""Which store: chosen by arguments, else by the environment, else the default of this user."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from mcp_claims.errors import InvalidInputError
from mcp_claims.liveness import Machine, local_machine
from mcp_claims.model.records import OriginalHolder
from mcp_claims.stores.agent_awareness.location import provider_directory, successors
from mcp_claims.stores.base import Store
from mcp_claims.stores.files.filenames import file_name
from mcp_claims.stores.files.store import FileStore
from mcp_claims.stores.history.history import History, Limits

if TYPE_CHECKING:
    from pathlib import Path

DIRECTORY_VARIABLE = "MCP_CLAIMS_DIR"
LAYOUT_VARIABLE = "MCP_CLAIMS_LAYOUT"
PROVIDER_VARIABLE = "MCP_CLAIMS_PROVIDER"
STORE_VARIABLE = "MCP_CLAIMS_STORE"
_STATE_VARIABLE = "XDG_STATE_HOME"

OWN_LAYOUT, AGENT_AWARENESS = "mcp-claims", "agent-awareness"
LAYOUTS = (OWN_LAYOUT, AGENT_AWARENESS)


class StoreChoice(NamedTuple):
    """A store that can be opened, and what chose it: the name of an argument or a variable, or a description.

    `url` is that of an etcd cluster.  Where it is `None`, the claims are files in `directory`, in `layout`.
    """

    chosen_by: str
    url: str | None = None
    layout: str = OWN_LAYOUT
    directory: str = ""


def open_store(
    directory: str | None = None,
    *,
    layout: str | None = None,
    provider: str | None = None,
    url: str | None = None,
    environment: Mapping[str, str] | None = None,
    machine: Machine | None = None,
) -> Store:
    """Open the store that the arguments choose, else the environment, else the claims directory of this user.

    *directory* is the absolute path of a claims directory and *layout* the arrangement of files in it, `mcp-claims` or
    `agent-awareness`; *provider* names one of the directories of agent-awareness, by default the only one that is there.
    *url* is that of an etcd cluster and excludes the others.  *environment* (`os.environ` by default) has `MCP_CLAIMS_DIR`, `MCP_CLAIMS_LAYOUT`,
    `MCP_CLAIMS_PROVIDER`, `MCP_CLAIMS_STORE` and the credentials for the cluster.

    Raises `InvalidInputError` for an invalid value, and for a choice of two stores or between several providers.
    """
    variables = os.environ if environment is None else environment
    machine = machine or local_machine()
    choice = choose_store(directory, layout=layout, provider=provider, url=url, environment=variables)
    if choice.url is not None:
        return _open_cluster(choice.url, choice.chosen_by, variables, machine)
    if choice.layout == OWN_LAYOUT:
        return FileStore(choice.directory, history=Limits.of(variables), machine=machine)
    # Imported only where claims are shared with that project.
    from mcp_claims.stores.agent_awareness.store import AgentAwarenessStore

    # The owner of a lock is judged as the holder of a claim of the original: by its PID on this host.
    return AgentAwarenessStore(
        choice.directory,
        lambda pid: machine.provably_dead(OriginalHolder(f"{machine.host()}:{pid}", pid)),
        history=Limits.of(variables),
    )


def claims_directory(directory: str | None = None, *, environment: Mapping[str, str] | None = None) -> Path:
    """Return the claims directory: *directory*, else `MCP_CLAIMS_DIR`, else one in the user's state directory.

    Not in the cache directory, where the original has them: caches may be purged at any time, and a claim that is
    purged while its holder works gives its key a second holder.

    Raises `InvalidInputError` for an empty or relative path: hosts start servers in directories of their own choice,
    so two servers with the same relative path would not see each other's claims.
    """
    from pathlib import Path  # Imported here, as `platformdirs` is.

    return Path(_choose_directory(directory, os.environ if environment is None else environment)[0])


def choose_store(
    directory: str | None = None,
    *,
    layout: str | None = None,
    provider: str | None = None,
    url: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> StoreChoice:
    """Return the store that `open_store` would open for the same arguments.

    Raises `InvalidInputError` if they choose two places, or leave open which: a session on the one would not exclude a
    session on the other.
    """
    variables = os.environ if environment is None else environment
    files_given = any(argument is not None for argument in (directory, layout, provider))
    if url is not None:
        if files_given:
            raise InvalidInputError("url", "and a directory, layout or provider ask for two stores; give one")
        return StoreChoice("url", url)
    if not files_given and (url := variables.get(STORE_VARIABLE)):
        for variable in (DIRECTORY_VARIABLE, LAYOUT_VARIABLE, PROVIDER_VARIABLE):
            if variable in variables:
                raise InvalidInputError(STORE_VARIABLE, f"and {variable} ask for two stores; unset one")
        return StoreChoice(STORE_VARIABLE, url)
    if (chosen := layout if layout is not None else variables.get(LAYOUT_VARIABLE, OWN_LAYOUT)) not in LAYOUTS:
        name = "layout" if layout is not None else LAYOUT_VARIABLE
        raise InvalidInputError(name, f"must be {' or '.join(LAYOUTS)}, not {chosen!r}")
    if chosen == OWN_LAYOUT:
        if provider is not None or PROVIDER_VARIABLE in variables:
            raise InvalidInputError("layout", f"must be {AGENT_AWARENESS} where a provider is given")
        path, chosen_by = _choose_directory(directory, variables)
        return StoreChoice(chosen_by, layout=chosen, directory=path)
    if directory is None and provider is None:
        provider = variables.get(PROVIDER_VARIABLE)
        other = variables.get(DIRECTORY_VARIABLE)
    else:
        other = directory  # An option is stronger than a variable.
    if provider is not None and other is not None:
        raise InvalidInputError("provider", "and a directory ask for two stores; give one")
    if other is not None:
        path, chosen_by = _choose_directory(directory, variables)
    else:
        path, chosen_by = provider_directory(provider, variables), "the layout"
    if moved := successors(path):
        rule = (
            f"must not be {path}, where agent-awareness looked before version 0.5: give a provider ({', '.join(moved)})"
        )
        raise InvalidInputError(chosen_by, rule)
    return StoreChoice(chosen_by, layout=chosen, directory=path)


def _choose_directory(directory: str | None, variables: Mapping[str, str]) -> tuple[str, str]:
    """Return the claims directory, as `claims_directory` does, and what chose it."""
    for name, path in (("directory", directory), (DIRECTORY_VARIABLE, variables.get(DIRECTORY_VARIABLE))):
        if path is not None:
            return _absolute(name, os.path.expanduser(path), path), name
    # platformdirs reads the environment of this process alone, and `doctor` asks about those of others.  Some versions
    # of it ignore a relative path, some use it.
    state = "" if sys.platform == "win32" else variables.get(_STATE_VARIABLE, "")
    if not state.strip():
        state = _default_state_directory()
    return os.path.join(_absolute(_STATE_VARIABLE, state, state), "mcp-claims", "claims"), "default"


def _default_state_directory() -> str:
    import platformdirs  # Not needed with a directory of one's own, and a tenth of the time of a short command.

    # Without one platformdirs raises an error of its own, or in older versions returns a relative path.
    if not os.path.isabs(home := os.path.expanduser("~")):
        rule = f"must be the absolute path of this user's home ({home!r} is none); or choose a directory with"
        raise InvalidInputError("HOME", f"{rule} {DIRECTORY_VARIABLE}")
    return platformdirs.user_state_dir(appauthor=False)


def _absolute(name: str, path: str, given: str) -> str:
    if path.startswith("~"):
        raise InvalidInputError(name, f"names the home of an unknown user: {given!r}")
    if not os.path.isabs(path):
        raise InvalidInputError(name, f"must be an absolute path, not {given!r}")
    return path


def _open_cluster(url: str, chosen_by: str, variables: Mapping[str, str], machine: Machine) -> Store:
    # Imported only where claims are on a cluster.
    from mcp_claims.stores.etcd.config import parse_config
    from mcp_claims.stores.etcd.store import EtcdStore

    config = parse_config(url, variables, chosen_by)
    history = None
    with suppress(InvalidInputError):  # Without a home there is no place for it, and claims need none.
        # Each machine has its own, in a directory for each cluster; the revisions in it put them together.
        state = os.path.dirname(_choose_directory(None, variables)[0])
        directory = os.path.join(state, "history", file_name(str(config).partition("://")[2]))
        history = History(directory, Limits.of(variables), machine=machine)
    return EtcdStore(config, machine, history)
