"""Which store, by the options of a command and the environment."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

from mcp_claims.errors import InvalidInputError
from mcp_claims.liveness import Machine, local_machine
from mcp_claims.model.records import OriginalHolder
from mcp_claims.stores.base import Store

STORE_VARIABLE = "MCP_CLAIMS_STORE"
LAYOUT_VARIABLE = "MCP_CLAIMS_LAYOUT"
PROVIDER_VARIABLE = "MCP_CLAIMS_PROVIDER"
OWN_LAYOUT, AGENT_AWARENESS = "mcp-claims", "agent-awareness"
LAYOUTS = (OWN_LAYOUT, AGENT_AWARENESS)


def open_store(
    directory: str | None = None,
    *,
    layout: str | None = None,
    provider: str | None = None,
    url: str | None = None,
    environment: Mapping[str, str] = os.environ,
    machine: Machine | None = None,
) -> Store:
    """Open the store that *directory* (`--dir`), *layout*, *provider* and *url* (`--store`) ask for, else the environment.

    Raises `InvalidInputError` for values that no store has.  Only the module of the store that is asked for is imported.
    """
    if (cluster := chosen_cluster(directory, layout, provider, url, environment)) is not None:
        return _open_cluster(*cluster, environment, machine or local_machine())
    chosen = layout if layout is not None else environment.get(LAYOUT_VARIABLE, OWN_LAYOUT)
    if chosen not in LAYOUTS:
        name = "--layout" if layout is not None else LAYOUT_VARIABLE
        raise InvalidInputError(name, f"must be {' or '.join(LAYOUTS)}, not {chosen!r}")
    if provider is None:
        provider = environment.get(PROVIDER_VARIABLE)
    if chosen == OWN_LAYOUT:
        if provider is not None:
            raise InvalidInputError("--layout", f"must be {AGENT_AWARENESS} where a provider is given")
        from mcp_claims.stores.files.store import FileStore

        return FileStore(located(directory, environment)[0])
    if directory is None and DIRECTORY_VARIABLE not in environment:
        place = agent_awareness_directory(provider)
    else:
        place = located(directory, environment)[0]
    there = machine or local_machine()
    from mcp_claims.stores.agent_awareness.store import AgentAwarenessStore

    # The owner of a lock is as dead as the holder of a claim of the original would be, with its PID on this host.
    return AgentAwarenessStore(place, lambda pid: there.provably_dead(OriginalHolder(f"{there.host()}:{pid}", pid)))


def chosen_cluster(
    directory: str | None,
    layout: str | None,
    provider: str | None,
    url: str | None,
    environment: Mapping[str, str] = os.environ,
) -> tuple[str, str] | None:
    """Return the URL of the cluster that the options, else the environment, ask for, and who chose it.

    Raises `InvalidInputError` where they ask for a directory as well: those who take the one would not exclude those who
    take the other.
    """
    files = {"--dir": directory, "--layout": layout, "--provider": provider}
    if url is None:
        if any(value is not None for value in files.values()) or not environment.get(STORE_VARIABLE):
            return None
        for variable in (DIRECTORY_VARIABLE, LAYOUT_VARIABLE, PROVIDER_VARIABLE):
            if variable in environment:
                raise InvalidInputError(STORE_VARIABLE, f"and {variable} ask for two stores; unset one")
        return environment[STORE_VARIABLE], STORE_VARIABLE
    for option, value in files.items():
        if value is not None:
            raise InvalidInputError("--store", f"and {option} ask for two stores; give one")
    return url, "--store"


def _open_cluster(url: str, chosen_by: str, environment: Mapping[str, str], machine: Machine) -> Store:
    from mcp_claims.stores.etcd.config import parse_config

    config = parse_config(url, environment, chosen_by)
    try:
        from mcp_claims.stores.etcd.store import EtcdStore
    except ModuleNotFoundError as error:
        missing = f"needs a package that is not installed ({error.name}): pip install 'mcp-claims[etcd]'"
        raise InvalidInputError(chosen_by, missing) from error
    return EtcdStore(config, machine)


def agent_awareness_directory(provider: str | None = None) -> str:
    """Return the directory of the original's sessions: newer versions have one for each *provider*."""
    state = os.path.join(os.path.expanduser("~"), ".cache", "agent-awareness")
    if provider is None:
        return os.path.join(state, "claims")
    if provider in ("", ".", "..") or not provider.isprintable() or "/" in provider or "\\" in provider:
        raise InvalidInputError("--provider", f"must be the name of a directory, not {provider!r}")
    return os.path.join(state, provider, "claims")


if TYPE_CHECKING:
    from pathlib import Path

DIRECTORY_VARIABLE = "MCP_CLAIMS_DIR"


def claims_directory(option: str | None = None, environment: Mapping[str, str] = os.environ) -> Path:
    """Return the claims directory: *option* (`--dir`), else `MCP_CLAIMS_DIR`, else the user's state directory.

    Not the cache directory, as in the original: caches may be purged at any time, and a claim that is purged while
    its holder works is a key with two holders.

    Raises `InvalidInputError` for an empty or relative path: hosts start servers in directories of their choosing,
    and two rigs that each used their own would never see each other's claims.
    """
    # Imported here, like `platformdirs` below: each takes half as long as a whole check.
    from pathlib import Path

    return Path(located(option, environment)[0])


def located(option: str | None = None, environment: Mapping[str, str] = os.environ) -> tuple[str, str]:
    """Return the claims directory, as `claims_directory` does, and who chose it, for people."""
    for name, path in (("--dir", option), (DIRECTORY_VARIABLE, environment.get(DIRECTORY_VARIABLE))):
        if path is not None:
            expanded = os.path.expanduser(path)
            if expanded.startswith("~"):
                raise InvalidInputError(name, f"names the home of nobody known here: {path!r}")
            if not os.path.isabs(expanded):
                raise InvalidInputError(name, f"must be an absolute path, not {path!r}")
            return expanded, name
    state = _plain_state_directory(environment)
    if state is None:
        from platformdirs import user_state_dir

        state = user_state_dir(appauthor=False)
    return os.path.join(state, "mcp-claims", "claims"), "the default of this user"


def _plain_state_directory(environment: Mapping[str, str]) -> str | None:
    """Return what `platformdirs` answers where that is plain: on Linux, with absolute paths in the environment.

    https://specifications.freedesktop.org/basedir-spec/latest/
    """
    home, state = environment.get("HOME", ""), environment.get("XDG_STATE_HOME")
    if sys.platform != "linux" or "ANDROID_DATA" in environment or not home.startswith("/"):
        return None
    if state is None:
        return f"{home.rstrip('/')}/.local/state"
    return state if state.startswith("/") and state == state.strip() else None
