"""The command lines that hooks and scripts run by the thousand, understood without `argparse`.

To import that and to describe the options to it takes a fifth of a check's time.  Only the plainest spelling is understood
here; any other is left to `argparse`, which also says what is wrong with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

from mcp_claims.rules import DEFAULT_NAMESPACE

_STORE = {"dir": None, "layout": None, "provider": None, "store": None}
_CHECK = _STORE | {"namespace": DEFAULT_NAMESPACE, "for_pid": None, "session": None, "generation": None, "json": False}


def plain_options(asked: Sequence[str]) -> SimpleNamespace | None:
    """Return what `argparse` would make of *asked*, `None` if that is for it to say."""
    match list(asked):
        case ["check", key] if not key.startswith("-"):
            from mcp_claims.cli.acting import check

            return SimpleNamespace(**_CHECK, key=key, run=check, after_dashes=[])
        case ["hook", ("guard" | "session-end") as name, *strict] if strict in ([], ["--strict"]):
            from mcp_claims.cli.hook import hook

            return SimpleNamespace(**_STORE, hook=name, strict=bool(strict), run=hook, after_dashes=[])
    return None
