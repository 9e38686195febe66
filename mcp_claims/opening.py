"""Which store, by the options of a command and the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping

from mcp_claims.errors import InvalidInputError
from mcp_claims.machine import Machine, local_machine
from mcp_claims.record import OriginalHolder
from mcp_claims.stores.base import Store
from mcp_claims.stores.location import DIRECTORY_VARIABLE, located

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
        from mcp_claims.stores.files import FileStore

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
    from mcp_claims.stores.etcd.address import read_address

    address = read_address(url, environment, chosen_by)
    try:
        from mcp_claims.stores.etcd.store import EtcdStore
    except ModuleNotFoundError as error:
        missing = f"needs a package that is not installed ({error.name}): pip install 'mcp-claims[etcd]'"
        raise InvalidInputError(chosen_by, missing) from error
    return EtcdStore(address, machine)


def agent_awareness_directory(provider: str | None = None) -> str:
    """Return the directory of the original's sessions: newer versions have one for each *provider*."""
    state = os.path.join(os.path.expanduser("~"), ".cache", "agent-awareness")
    if provider is None:
        return os.path.join(state, "claims")
    if provider in ("", ".", "..") or not provider.isprintable() or "/" in provider or "\\" in provider:
        raise InvalidInputError("--provider", f"must be the name of a directory, not {provider!r}")
    return os.path.join(state, provider, "claims")
