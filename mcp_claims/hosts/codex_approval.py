"""Which of our hooks a person has approved in Codex, which runs no others, and says nothing about those that it skips.

https://developers.openai.com/codex/hooks: an approval is the hash of the hook's definition, in `[hooks.state]` of
`config.toml`, under the hook's place: file, event, group and number.  Codex 0.171.0 hashes its own JSON of it, with sorted keys.
"""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Mapping
from typing import Any

from mcp_claims.hosts.atomic_file import read
from mcp_claims.hosts.catalog import HOSTS, UserEnvironment
from mcp_claims.hosts.errors import UneditableTextError, naming_file
from mcp_claims.hosts.hook_catalog import CODEX

_DEFAULT_SECONDS = 600


def unapproved_events(user: UserEnvironment, server: str) -> list[str]:
    """Return the events of our hooks for *server* that Codex skips: not approved as they are now, or switched off.

    Raises `HostFileUneditableError` for a file that cannot be read.
    """
    file = CODEX.file(user, server)
    content = read(file)
    with naming_file(content.path):
        places = CODEX.places(user, server, content.text())
    states = _states(user)
    skipped = []
    for event, group, element in places:
        label = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", event).lower()
        for number, command in enumerate(element["hooks"]):
            # Codex names the file as CODEX_HOME or its links lead there.
            keys = [f"{path}:{label}:{group}:{number}" for path in (file, content.path)]
            state = next((states[key] for key in keys if key in states), {})
            approved = state.get("trusted_hash") == _hash(label, element.get("matcher"), command)
            if not approved or state.get("enabled") is False:
                skipped.append(event)
    return skipped


def _states(user: UserEnvironment) -> Mapping[str, dict[str, Any]]:
    """Return what `config.toml` says of each hook; nothing if it switches all off."""
    content = read(HOSTS["codex"].config_file(user))
    with naming_file(content.path):
        try:
            config = tomllib.loads(content.text())
        except tomllib.TOMLDecodeError as error:
            raise UneditableTextError(f"is not valid TOML: {error}") from error
    if config.get("features", {}).get("hooks") is False:
        return {}
    states: Mapping[str, dict[str, Any]] = config.get("hooks", {}).get("state", {})
    return states


def _hash(label: str, matcher: str | None, command: Mapping[str, Any]) -> str:
    handler = {"async": False, "timeout": _DEFAULT_SECONDS, **command}
    definition = {"event_name": label, "hooks": [handler], **({} if matcher is None else {"matcher": matcher})}
    text = json.dumps(definition, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
