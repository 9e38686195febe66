"""The command lines that hooks and scripts run by the thousand, understood without `argparse`.

To import that and to describe the options to it takes a fifth of a check's time.  Only the plainest spelling is understood
here; any other is left to `argparse`, which also says what is wrong with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

from mcp_claims.model.validation import DEFAULT_NAMESPACE

_STORE: dict[str, str | None] = {"dir": None, "layout": None, "provider": None, "store": None}
_CHECK = _STORE | {"namespace": DEFAULT_NAMESPACE, "for_pid": None, "session": None, "generation": None, "json": False}


def plain_options(asked: Sequence[str]) -> SimpleNamespace | None:
    """Return what `argparse` would make of *asked*, `None` if that is for it to say."""
    match list(asked):
        case ["check", key, *rest] if not key.startswith("-") and (store := _store(rest)) is not None:
            from mcp_claims.cli.claim_commands import check

            return SimpleNamespace(**(_CHECK | store), key=key, run=check, after_dashes=[])
        case ["hook", "guard", "--strict", *rest] if (store := _store(rest)) is not None:
            return _hook("guard", store, strict=True)
        case ["hook", ("guard" | "session-end") as name, *rest] if (store := _store(rest)) is not None:
            return _hook(name, store, strict=False)
    return None


def _hook(name: str, store: dict[str, str | None], *, strict: bool) -> SimpleNamespace:
    from mcp_claims.cli.hook import hook

    return SimpleNamespace(**store, hook=name, strict=strict, run=hook, after_dashes=[])


def _store(words: list[str]) -> dict[str, str | None] | None:
    """Return what the pairs of options and values among *words* say of the store; `None` if there is anything else."""
    options, values = words[::2], words[1::2]
    if len(options) != len(values) or any(value.startswith("-") for value in values):
        return None
    said = {
        option.removeprefix("--"): value for option, value in zip(options, values, strict=True) if option[:2] == "--"
    }
    return {**_STORE, **said} if len(said) == len(options) and said.keys() <= _STORE.keys() else None
