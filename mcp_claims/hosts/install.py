"""Adds the server to a host's file and removes it again.  Both return the change; the caller writes it."""

from __future__ import annotations

from typing import Any

from mcp_claims.hosts.atomic_file import Change, Content, read, restore
from mcp_claims.hosts.catalog import Host, UserEnvironment
from mcp_claims.hosts.entries import Launch
from mcp_claims.hosts.errors import HostFileUneditableError, naming_file
from mcp_claims.hosts.format import put_server, remove_server


def install(host: Host, user: UserEnvironment, name: str, launch: Launch) -> Change:
    """Return the change that makes *host* start *launch* as the server *name*; it is empty if the host does already.

    Raises `HostFileUneditableError` for a file that cannot be edited safely.
    """
    content, servers = read_servers(host, user)
    existing = servers.get(name)
    if existing is not None and not isinstance(existing, dict):
        raise HostFileUneditableError(content.path, f"has something else than a server as {name!r}")
    entry = host.make_entry(launch).merged_into(existing)
    return Change(content, content.data if entry == existing else _put(host, content, name, entry))


def uninstall(host: Host, user: UserEnvironment, name: str) -> Change:
    """Return the change that removes the server *name* from the file of *host*; it is empty if there is none.

    If the file is exactly what `install` made of the backup, the change restores the backup to the byte; if it has
    nothing else, the change removes the file.  Raises as `install`.
    """
    content, servers = read_servers(host, user)
    entry = servers.get(name)
    if entry is None:
        return Change(content, content.data)

    def reinstall(before: Content) -> bytes | None:
        return None if name in _servers(host, before) else _put(host, before, name, entry)

    restored = restore(content, reinstall)
    if restored is not None:
        return restored
    with naming_file(content.path):
        return Change(content, content.encode(remove_server(host.format, content.text(), host.key_path, name)))


def read_servers(host: Host, user: UserEnvironment) -> tuple[Content, dict[str, Any]]:
    """Return the content of the file of *host*, and the servers in it by name.  Raises as `install`."""
    with naming_file(f"the file of {host.title}"):
        path = host.config_file(user)
    content = read(path)
    return content, _servers(host, content)


def _servers(host: Host, content: Content) -> dict[str, Any]:
    with naming_file(content.path):
        return host.format.servers(host.format.parse(content.text()), host.key_path)


def _put(host: Host, content: Content, name: str, entry: dict[str, Any]) -> bytes:
    with naming_file(content.path):
        return content.encode(put_server(host.format, content.text(), host.key_path, name, entry))
