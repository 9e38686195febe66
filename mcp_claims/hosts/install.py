"""Putting the server into a host's file and taking it out: what would change, for the caller to write."""

from __future__ import annotations

from typing import Any

from mcp_claims.hosts.atomic_file import Change, Content, backup_of, read
from mcp_claims.hosts.catalog import Host, Surroundings
from mcp_claims.hosts.entries import Launch
from mcp_claims.hosts.errors import HostFileUnfitError
from mcp_claims.hosts.format import Unfit, drop_checked, put_checked


def install(host: Host, where: Surroundings, name: str, launch: Launch) -> Change:
    """Return the change that makes *host* start *launch* as the server *name*.

    No change if it does already.  Raises `HostFileUnfitError` for a file that cannot be edited safely.
    """
    content = content_of(host, where)
    return Change(content, _with(host, content, name, launch))


def uninstall(host: Host, where: Surroundings, name: str) -> Change:
    """Return the change that takes the server *name* out of the file of *host*.

    No change if it is not there.  If the file is exactly what `install` made of the copy beside it, it becomes that
    copy again, to the byte; and if it holds nothing else, it is removed.  Raises as `install`.
    """
    content = content_of(host, where)
    entry = _servers(host, content).get(name)
    if entry is None:
        return Change(content, content.data)
    copy = read(backup_of(content.path)).data
    for before in dict.fromkeys((copy, None)):
        if _put(host, Content(content.path, before), name, entry) == content.data:
            return Change(content, before)
    try:
        return Change(content, content.encoded(drop_checked(host.format, content.text(), host.place, name)))
    except Unfit as error:
        raise HostFileUnfitError(content.path, str(error)) from error


def configured(host: Host, where: Surroundings) -> tuple[Content, dict[str, Any]]:
    """Return the file of *host* and the servers in it, by name.  Raises as `install`."""
    content = content_of(host, where)
    return content, _servers(host, content)


def content_of(host: Host, where: Surroundings) -> Content:
    """Return what is in the file of *host*.  Raises `HostFileUnfitError` if it cannot be read."""
    try:
        return read(host.file(where))
    except Unfit as error:
        raise HostFileUnfitError(f"the file of {host.title}", str(error)) from error


def _with(host: Host, content: Content, name: str, launch: Launch) -> bytes | None:
    found = _servers(host, content).get(name)
    if found is not None and not isinstance(found, dict):
        raise HostFileUnfitError(content.path, f"has something else than a server as {name!r}")
    entry = host.entry(launch).merged(found)
    return content.data if entry == found else _edited(host, content, name, entry)


def _edited(host: Host, content: Content, name: str, entry: dict[str, Any]) -> bytes:
    try:
        return content.encoded(put_checked(host.format, content.text(), host.place, name, entry))
    except Unfit as error:
        raise HostFileUnfitError(content.path, str(error)) from error


def _put(host: Host, content: Content, name: str, entry: dict[str, Any]) -> bytes | None:
    """Return what `install` makes of *content*, or `None` where it refuses to."""
    try:
        if name in _servers(host, content):
            return None
        return _edited(host, content, name, entry)
    except HostFileUnfitError:
        return None


def _servers(host: Host, content: Content) -> dict[str, Any]:
    try:
        return host.format.entries(host.format.load(content.text()), host.place)
    except Unfit as error:
        raise HostFileUnfitError(content.path, str(error)) from error
