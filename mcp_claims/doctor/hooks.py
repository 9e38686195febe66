"""Checks our hooks in the hosts: do they guard, with the claims of the server, and does the host run them?"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from mcp_claims.doctor.finding import Finding, failure, ok, warning
from mcp_claims.doctor.host_stores import stores_of
from mcp_claims.errors import shown_path
from mcp_claims.hosts import (
    DEFAULT_SERVER,
    HOOKS,
    OFF,
    Hook,
    Host,
    Launch,
    UserEnvironment,
    installed_hook,
    unapproved_events,
)
from mcp_claims.hosts.errors import HostFileUneditableError


def check_hooks(host: Host, user: UserEnvironment, servers: Mapping[str, set[str]]) -> Iterator[Finding]:
    """Check our hooks in *host*, which has the *servers* of ours, each with its stores."""
    if host.name not in HOOKS:
        return
    for name in dict.fromkeys([*servers, DEFAULT_SERVER]):
        try:
            found = installed_hook(host, user, name)
            if found is not None:
                yield _finding(host, user, name, *found, servers.get(name))
        except HostFileUneditableError as error:
            yield failure(f"hooks {host.name}", f"{error.where} {error.problem}", "Correct the file.")
            return
        if found is not None and found[1].server is None:
            return  # An older version's, for all servers.


def _finding(host: Host, user: UserEnvironment, name: str, path: Path, hook: Hook, stores: set[str] | None) -> Finding:
    guard = (
        f"guard (mode {hook.mode}{', strict' if hook.strict else ''})" if hook.mode != OFF else "hooks without a guard"
    )
    what = f"{guard} for {name!r} in {path}"
    check, again = f"hooks {host.name}", f"Run `mcp-claims install {host.name}` again, with the options of the server."
    command, *arguments = hook.words
    if shutil.which(command, path=user.environment.get("PATH")) is None:
        return failure(check, f"{what}; {shown_path(command)} does not exist, so no edit is looked at", again)
    own = stores_of(Launch(command, tuple(arguments)), user)
    if stores is not None and own != stores:
        where, server = (" or ".join(sorted(each)) for each in (own, stores))
        return warning(
            check, f"{what}; it looks at the claims in {where}, and the server makes them in {server}", again
        )
    if hook.server is None:
        return warning(check, f"{what}; an earlier version has written it", again)
    if host.name == "codex" and (events := unapproved_events(user, name)):
        return warning(
            check,
            f"{what}; Codex skips it at {', '.join(events)}: there it is switched off, or nobody has approved it as it is",
            "Start `codex`, which asks for it, or enter /hooks there, and approve them.",
        )
    return ok(check, f"{what}{'; approved' if host.name == 'codex' else ''}")
