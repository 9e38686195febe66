"""Adds the server to a host's files and removes it again.  Both return the changes; the caller writes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mcp_claims.hosts.atomic_file import Change, Content, read, restore
from mcp_claims.hosts.catalog import Host, UserEnvironment
from mcp_claims.hosts.entries import Entry, Launch
from mcp_claims.hosts.errors import UneditableTextError, naming_file
from mcp_claims.hosts.hook_catalog import HOOKS
from mcp_claims.hosts.hooks import OFF, Hook
from mcp_claims.hosts.parts import Member, Part


def install(
    host: Host,
    user: UserEnvironment,
    name: str,
    launch: Launch,
    *,
    hook: Hook | None = None,
    allow: bool = False,
) -> list[Change]:
    """Return the changes that make *host* start *launch* as the server *name*, one for each file.

    With *hook*, for a host that has hooks, it also runs that at its events; with *allow*, for a host with a `permission`,
    it calls the server's tools without asking.  A change is empty if its file has all that already.  Raises
    `HostFileUneditableError` for a file that cannot be edited safely.
    """
    entry = host.make_entry(launch)
    placed: list[tuple[Path, Part]] = []
    if allow and host.permission is not None:
        entry = replace(entry, required={**entry.required, **host.permission.fields})
        placed += host.permission.parts(user, name)
    if hook is not None:
        placed.append(_hooks(host, user, name, hook))
    return _changes([(_config_file(host, user), _server(host, name, entry)), *placed], _with)


def uninstall(host: Host, user: UserEnvironment, name: str) -> list[Change]:
    """Return the changes that remove the server *name* from *host*, with the hooks and the permission of that name.

    If a file is exactly what `install` made of the backup, its change restores the backup to the byte; if it has
    nothing else, the change removes the file.  It is empty if we have nothing there.  Raises as `install`.
    """
    content, _ = read_servers(host, user)
    placed: list[tuple[Path, Part]] = [(content.path, _server(host, name, Entry({})))]
    if host.permission is not None:
        placed += host.permission.parts(user, name)
    if host.name in HOOKS:
        placed.append(_hooks(host, user, name, None))
    return _changes(placed, _without)


def installed_hook(host: Host, user: UserEnvironment, name: str) -> tuple[Path, Hook] | None:
    """Return our hook in *host* for the server *name*, with its file; `None` if there is none.  Raises as `install`."""
    if host.name not in HOOKS:
        return None
    content = read(HOOKS[host.name].file(user, name))
    with naming_file(content.path):
        found = HOOKS[host.name].installed(user, name, content.text())
    # An older version has a hook for the end of a session, and perhaps a guard.
    found.sort(key=lambda hook: hook.mode == OFF)
    return (content.path, found[0]) if found else None


def _hooks(host: Host, user: UserEnvironment, name: str, hook: Hook | None) -> tuple[Path, Part]:
    kept = HOOKS[host.name]
    return kept.file(user, name), kept.part(user, name, hook)


def is_allowed(host: Host, user: UserEnvironment, name: str) -> bool:
    """Return whether *host*, which has a `permission`, calls the tools of the server *name* without asking."""
    assert host.permission is not None
    entry = read_servers(host, user)[1].get(name, {})
    return host.permission.fields.items() <= entry.items() and all(
        part.found_in(read(path).text()) for path, part in host.permission.parts(user, name)
    )


def read_servers(host: Host, user: UserEnvironment) -> tuple[Content, dict[str, Any]]:
    """Return the content of the file of *host*, and the servers in it by name.  Raises as `install`."""
    content = read(_config_file(host, user))
    with naming_file(content.path):
        return content, host.format.servers(host.format.parse(content.text()), host.key_path)


def _config_file(host: Host, user: UserEnvironment) -> Path:
    with naming_file(f"the file of {host.title}"):
        return host.config_file(user)


def _server(host: Host, name: str, entry: Entry) -> Part:
    def merged(existing: Any) -> dict[str, Any]:
        if existing is not None and not isinstance(existing, dict):
            raise UneditableTextError(f"has {name!r}, which is not a server")
        return entry.merged_into(existing)

    return Member(host.format, host.key_path, name, merged)


def _changes(placed: Sequence[tuple[Path, Part]], change: Callable[[Content, list[Part]], Change]) -> list[Change]:
    """Return one *change* for each file, with all parts that are placed there."""
    files: dict[Path, tuple[Content, list[Part]]] = {}
    for path, part in placed:
        content = read(path)
        files.setdefault(content.path, (content, []))[1].append(part)
    changes = []
    for content, parts in files.values():
        with naming_file(content.path):
            changes.append(change(content, parts))
    return changes


def _with(content: Content, parts: Sequence[Part]) -> Change:
    before = text = content.text()
    for part in parts:
        text = part.put(text)
    return Change(content, content.data if text == before else content.encode(text))


def _without(content: Content, parts: Sequence[Part]) -> Change:
    text = content.text()
    found = [there for part in parts if (there := part.found_in(text)) is not None]
    if not found:
        return Change(content, content.data)

    def reinstall(before: Content) -> bytes | None:
        return None if any(part.found_in(before.text()) for part in found) else _with(before, found).after

    restored = restore(content, reinstall)
    if restored is not None:
        return restored
    for part in found:
        text = part.remove(text)
    return Change(content, content.encode(text))
