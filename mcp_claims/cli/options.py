"""Options that commands have in common: store, key, session, and form of the output."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable

from mcp_claims.cli.errors import OPTIONS, STORE_ERROR, USAGE_ERROR, UsageError
from mcp_claims.errors import InvalidInputError
from mcp_claims.liveness import local_machine
from mcp_claims.model.records import Maker
from mcp_claims.model.validation import (
    DEFAULT_NAMESPACE,
    DEFAULT_RETENTION_HOURS,
    DEFAULT_TTL_MINUTES,
    ClaimRequest,
)
from mcp_claims.session.host_session import host_session_of_environment
from mcp_claims.session.identity import named_session, process_session, session_for_process
from mcp_claims.session.session import Session
from mcp_claims.stores.agent_awareness.location import PROVIDERS
from mcp_claims.stores.base import Store
from mcp_claims.stores.config import (
    AGENT_AWARENESS,
    DIRECTORY_VARIABLE,
    LAYOUT_VARIABLE,
    LAYOUTS,
    PROVIDER_VARIABLE,
    STORE_VARIABLE,
    StoreChoice,
    choose_store,
    open_store,
)

SESSION_VARIABLE = "MCP_CLAIMS_SESSION"
LABEL_VARIABLE = "MCP_CLAIMS_LABEL"
SECOND, MINUTE, HOUR = 1, 60, 3_600
_UNITS = {"s": SECOND, "m": MINUTE, "h": HOUR, "d": 24 * HOUR}
_TROUBLE = f"{USAGE_ERROR} wrong usage, {STORE_ERROR} the store cannot answer"

LONGEST_WAIT = 366 * 86_400.0
"""Seconds of the longest wait that can be asked for; a wait without a limit takes as long."""


def duration(unit: int) -> Callable[[str], float]:
    """Return a parser of durations: `90s`, `5m`, `1h30m`, `7d`, or a number of *unit* (`SECOND`, `MINUTE`, `HOUR`).

    It returns the duration in *unit*, unchecked, and raises `argparse.ArgumentTypeError` for anything else.
    """

    def parse(text: str) -> float:
        parts = re.findall(r"(\d+(?:\.\d+)?)([smhd])", text)
        if parts and "".join(number + name for number, name in parts) == text:
            return sum(float(number) * _UNITS[name] for number, name in parts) / unit
        try:
            return float(text)  # The caller checks the range.
        except ValueError:
            raise argparse.ArgumentTypeError(f"must be a duration such as 30s, 5m or 1h30m, not {text!r}") from None

    return parse


def add_epilog(parser: argparse.ArgumentParser, examples: str, exit_codes: str, *, trouble: str = _TROUBLE) -> None:
    """Show *examples* below the options, and the *exit_codes* with those of *trouble*."""
    parser.epilog = f"examples:\n{examples}\n\nexit codes: {exit_codes}, {trouble}"


def add_store_options(parser: argparse._ActionsContainer) -> None:
    """Add the options that choose the store."""
    parser.add_argument(
        "--dir", metavar="PATH", help=f"claims directory (else {DIRECTORY_VARIABLE}, else one in your state directory)"
    )
    parser.add_argument(
        "--layout",
        metavar="NAME",
        help=f"layout of the directory, {' or '.join(LAYOUTS)}: which program's sessions to share the claims with "
        f"(else {LAYOUT_VARIABLE}, else {LAYOUTS[0]})",
    )
    parser.add_argument(
        "--provider",
        metavar="NAME",
        help=f"with --layout {AGENT_AWARENESS}: the host whose directory to use, {' or '.join(PROVIDERS)} "
        f"(else {PROVIDER_VARIABLE}, else the only one that exists)",
    )
    parser.add_argument(
        "--store",
        metavar="URL",
        help="keep the claims on an etcd cluster: etcd://host1:2379,host2:2379/prefix, or etcds:// for TLS "
        f"(else {STORE_VARIABLE})",
    )


def chosen_store(options: argparse.Namespace) -> Store:
    """Open the store that *options*, else the environment, choose; raise `InvalidInputError` for an invalid choice."""
    return open_store(options.dir, layout=options.layout, provider=options.provider, url=options.store)


def store_choice(options: argparse.Namespace) -> StoreChoice:
    """Return which store *options*, else the environment, choose, and the option or variable that chose it."""
    choice = choose_store(options.dir, layout=options.layout, provider=options.provider, url=options.store)
    return choice._replace(chosen_by=OPTIONS.get(choice.chosen_by, choice.chosen_by))


def add_key(parser: argparse.ArgumentParser) -> argparse.Action:
    """Add a key and its namespace; return the key."""
    key = parser.add_argument(
        "key",
        metavar="KEY",
        help="one occurrence of an event, named alike by all: acme/web#12:red@3f2a91c; or what is worked on: file:src/a.py, "
        "file:src/ (all below), file:src/*.py, branch:main",
    )
    add_namespace(parser, default=DEFAULT_NAMESPACE, purpose="scope of the key (%(default)s)")
    return key


def add_namespace(parser: argparse.ArgumentParser, *, default: str | None = None, purpose: str) -> None:
    """Add a namespace."""
    parser.add_argument("-n", "--namespace", default=default, metavar="NAME", help=purpose)


def add_claim(parser: argparse.ArgumentParser) -> argparse.Action:
    """Add what `claim_request` reads; return the key."""
    key = add_key(parser)
    add_terms(parser)
    parser.add_argument("--redo", action="store_true", help="claim the key even if the work is done")
    parser.add_argument(
        "--wait",
        type=duration(SECOND),
        default=0,
        metavar="DURATION",
        help="while another session holds the key, wait for it: 30s, 5m, 2h; a number is seconds (%(default)g)",
    )
    return key


def add_ways(parser: argparse.ArgumentParser) -> None:
    """Add what says in which way keys are claimed: several of them, or beside others."""
    several = parser.add_mutually_exclusive_group()
    several.add_argument("--all", action="store_true", help="with several keys: claim all of them, or none")
    several.add_argument(
        "--any", action="store_true", help="with several keys: claim the first that is free and not done"
    )
    beside = parser.add_mutually_exclusive_group()
    beside.add_argument("--shared", action="store_true", help="others may share it, too; who wants it alone waits")
    beside.add_argument("--slots", type=int, metavar="N", help="up to N sessions have it, each in a slot of its own")


def check_ways(options: argparse.Namespace) -> None:
    """Raise `UsageError` for several keys without a word about how they are claimed."""
    if len(options.key) > 1 and not (options.all or options.any):
        raise UsageError("Several keys need --all (all of them or none) or --any (the first that is free).")


def add_terms(parser: argparse._ActionsContainer) -> None:
    """Add the TTL and the note of a claim."""
    parser.add_argument(
        "--ttl",
        type=duration(MINUTE),
        default=DEFAULT_TTL_MINUTES,
        metavar="DURATION",
        help="when the claim expires unless it is renewed: 90s, 5m, 2h; a number is minutes (%(default)g)",
    )
    parser.add_argument("--note", metavar="TEXT", help="what you are about to do, shown to the others")


def claim_request(options: argparse.Namespace) -> ClaimRequest:
    """Return the request for a claim that *options* ask for; raise `InvalidInputError` for a value out of range."""
    key, *others = options.key if isinstance(options.key, list) else [options.key]
    any_of_them = getattr(options, "any", False)
    request = ClaimRequest.parse(
        key,
        options.namespace,
        ttl_minutes=options.ttl,
        note=options.note,
        redo=options.redo,
        also=() if any_of_them else others,
        or_else=others if any_of_them else (),
        shared=getattr(options, "shared", False),
        slots=getattr(options, "slots", None),
    )
    # The tools' limit is for hosts, which give up a call after minutes.  At a shell the caller decides.
    if not 0 <= options.wait <= LONGEST_WAIT:
        raise InvalidInputError("wait_seconds", "must be from 0 to 366 days")
    return request._replace(wait_seconds=options.wait)


def add_retention(parser: argparse.ArgumentParser) -> None:
    """Add how long an outcome is kept."""
    parser.add_argument(
        "--retention",
        type=duration(HOUR),
        default=DEFAULT_RETENTION_HOURS,
        metavar="DURATION",
        help="how long the outcome is kept: 30m, 12h, 7d; a number is hours (%(default)g)",
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add the option to print JSON."""
    parser.add_argument("--json", action="store_true", help="print JSON, for scripts")


def add_identity(parser: argparse._ActionsContainer) -> argparse._MutuallyExclusiveGroup:
    """Add the options that name the session a command acts for, which excludes its own process; return their group."""
    session = parser.add_mutually_exclusive_group()
    session.add_argument(
        "--for-pid",
        type=int,
        metavar="PID",
        help="act for the process PID, such as $$, the shell: its claims end with it",
    )
    session.add_argument(
        "--session",
        metavar="NAME",
        help=f"act for the session NAME: its claims end by release or expiry (else {SESSION_VARIABLE})",
    )
    return session


def add_label(parser: argparse._ActionsContainer) -> None:
    """Add what `describe_session` reads."""
    parser.add_argument(
        "--label", metavar="TEXT", help=f"what to call the session in lists, for people (else {LABEL_VARIABLE})"
    )


def describe_session(session: Session, options: argparse.Namespace) -> None:
    """Let others see that *session* acts by commands, its label from *options* or the environment, and its directory.

    Raises `InvalidInputError` for a label that is too long.
    """
    label = options.label if options.label is not None else os.environ.get(LABEL_VARIABLE)
    session.describe(label=label, directory=shown_directory())
    session.maker = Maker.COMMAND
    session.act_in(host_session_of_environment(os.environ, local_machine()))


def shown_directory(directory: str | None = None) -> str | None:
    """Return *directory*, by default the working directory, with `~` for the home; `None` if that has been removed."""
    try:
        # Half a surrogate pair, which a host may send, fits in no record.
        return from_home(os.path.abspath(directory or os.curdir).encode(errors="replace").decode())
    except (OSError, ValueError):
        return None


def from_home(here: str) -> str:
    """Return the path *here* with `~` for the home."""
    home = os.path.expanduser("~")
    if os.path.isabs(home) and home != os.sep and f"{here}{os.sep}".startswith(f"{home}{os.sep}"):
        return f"~{here[len(home) :]}"
    return here


def chosen_session(options: argparse.Namespace, store: Store) -> Session | None:
    """Return the session that *options*, else the environment, name; `None` if they name none."""
    if options.for_pid is not None:
        try:
            return session_for_process(store, options.for_pid)
        except InvalidInputError as error:
            raise InvalidInputError(error.field, f"{error.rule}; --session NAME claims for a name instead") from error
    name = options.session if options.session is not None else os.environ.get(SESSION_VARIABLE)
    return None if name is None else named_session(store, name)


def looking_session(options: argparse.Namespace, store: Store) -> Session:
    """Return the session that *options*, else the environment, name, or one that only reads, in its host's session."""
    session = chosen_session(options, store) or process_session(store)
    session.act_in(host_session_of_environment(os.environ, local_machine()))
    return session


def required_session(options: argparse.Namespace, store: Store) -> Session:
    """Return the session that *options*, else the environment, name; raise `InvalidInputError` if they name none."""
    session = chosen_session(options, store)
    if session is None:
        raise UsageError(
            "Say who holds it: --for-pid $$ (until this shell ends) or --session NAME. "
            "To hold it while one command runs: mcp-claims run KEY -- COMMAND"
        )
    return session
