"""Where sessions of agent-awareness keep their claims: since version 0.5 in a directory for each provider.

| version | directory in `~/.cache/agent-awareness` |
|---|---|
| 0.3 to 0.4.14 | `claims`, the flat one |
| since 0.5 | `<provider>/claims`; the first start moves the flat one there, live claims included |

Two sessions in different directories do not exclude each other, and neither of them can notice it.  So a choice that is
not certain is refused.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

from mcp_claims.errors import InvalidInputError

PROVIDERS = ("claude-code", "codex")
"""The providers that agent-awareness comes with."""

CLAIMS = "claims"
_STATE_FILE = "state.json"


def provider_directory(provider: str | None, variables: Mapping[str, str]) -> str:
    """Return the claims directory of *provider*, or of the only one that is there; the home is that of *variables*.

    Raises `InvalidInputError` for an unknown provider, and without one if there are several or none.
    """
    # As Node finds it, which ignores HOME on Windows.
    home = ("" if sys.platform == "win32" else variables.get("HOME", "")) or os.path.expanduser("~")
    if not os.path.isabs(home):
        raise InvalidInputError("HOME", f"must be the absolute path of this user's home ({home!r} is none)")
    state = os.path.join(home, ".cache", "agent-awareness")
    there = providers_in(state)
    if provider is not None:
        if provider in ("", ".", "..", CLAIMS) or not provider.isprintable() or "/" in provider or "\\" in provider:
            raise InvalidInputError("provider", f"must be the name of a directory, not {provider!r}")
        if provider not in (*there, *PROVIDERS):
            known = ", ".join(sorted({*there, *PROVIDERS}))
            raise InvalidInputError("provider", f"must be one that has run here ({known}), not {provider!r}")
        return os.path.join(state, provider, CLAIMS)
    if len(there) == 1:
        return os.path.join(state, there[0], CLAIMS)
    if there:
        rule = f"must name one of {', '.join(there)}, since each has claims of its own in {state}"
        raise InvalidInputError("provider", rule)
    if os.path.isdir(flat := os.path.join(state, CLAIMS)):
        return flat
    raise InvalidInputError("provider", f"must be {' or '.join(PROVIDERS)}, since there are no claims in {state} yet")


def providers_in(state: str) -> list[str]:
    """Return the providers that have a directory in *state*; none if it cannot be listed."""
    try:
        names = sorted(os.listdir(state))
    except OSError:
        return []
    # A session makes its directory when it starts; other programs of agent-awareness have directories here as well.
    return [
        name
        for name in names
        if name != CLAIMS and (os.path.isdir if name in PROVIDERS else _has_state)(os.path.join(state, name))
    ]


def successors(directory: str) -> list[str]:
    """Return the providers beside *directory* if that is the flat one: their sessions no longer look there."""
    state, name = os.path.split(directory)
    return providers_in(state) if name == CLAIMS else []


def other_providers(directory: str) -> list[str]:
    """Return the providers beside the one to which the claims *directory* belongs."""
    provider, name = os.path.split(directory)
    state, own = os.path.split(provider)
    return (
        [other for other in providers_in(state) if other != own]
        if name == CLAIMS and own in providers_in(state)
        else []
    )


def _has_state(path: str) -> bool:
    return os.path.isfile(os.path.join(path, _STATE_FILE))
