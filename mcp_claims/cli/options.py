"""Options that commands have in common: which store, on whose behalf, how to print; and the exit codes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING

from mcp_claims.cli.output import format_json, write_line
from mcp_claims.errors import InvalidInputError
from mcp_claims.model.validation import DEFAULT_NAMESPACE
from mcp_claims.session.session import Session
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

if TYPE_CHECKING:
    import argparse

YES, NO, USAGE_ERROR, STORE_TROUBLE = 0, 1, 2, 3
EXIT_CODES = "exit codes: 0 yes, 1 no, 2 wrong usage, 3 the store cannot answer"
SESSION_VARIABLE = "MCP_CLAIMS_SESSION"
_OPTIONS = {"directory": "--dir", "layout": "--layout", "provider": "--provider", "url": "--store"}


def add_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, summary: str, examples: str
) -> argparse.ArgumentParser:
    """Add the command *name* with its options for the store; return its parser."""
    import argparse

    command = commands.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog=f"examples:\n{examples}\n\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_store_options(command)
    return command


def add_store_options(parser: argparse._ActionsContainer) -> None:
    """Add the options that say which store."""
    parser.add_argument("--dir", metavar="PATH", help=f"claims directory (else {DIRECTORY_VARIABLE}, else your own)")
    parser.add_argument(
        "--layout",
        metavar="NAME",
        help=f"{' or '.join(LAYOUTS)}: whose sessions to share the claims with (else {LAYOUT_VARIABLE}, else ours)",
    )
    parser.add_argument(
        "--provider",
        metavar="NAME",
        help=f"in the layout {AGENT_AWARENESS}, whose directory (else {PROVIDER_VARIABLE}, else the common one)",
    )
    parser.add_argument(
        "--store",
        metavar="URL",
        help=f"claims on etcd: etcd://host1:2379,host2:2379/prefix, etcds:// for TLS (else {STORE_VARIABLE})",
    )


def chosen_store(options: SimpleNamespace) -> Store:
    """Open the store that *options* and the environment ask for; raise `InvalidInputError` for what none has."""
    with naming_options():
        return open_store(options.dir, layout=options.layout, provider=options.provider, url=options.store)


def store_choice(options: SimpleNamespace) -> StoreChoice:
    """Return which store *options* and the environment ask for, and the option or the variable that does."""
    with naming_options():
        choice = choose_store(options.dir, layout=options.layout, provider=options.provider, url=options.store)
    return choice._replace(chosen_by=_OPTIONS.get(choice.chosen_by, choice.chosen_by))


@contextmanager
def naming_options() -> Iterator[None]:
    """Let an `InvalidInputError` about an argument of the library name the option that it came from."""
    try:
        yield
    except InvalidInputError as error:
        raise InvalidInputError(_OPTIONS.get(error.field, error.field), error.rule) from error


def add_key(parser: argparse.ArgumentParser) -> None:
    """Add a key and its namespace."""
    parser.add_argument(
        "key", metavar="KEY", help="the event, spelt alike by all, e.g. vercel/next.js#4521:checks_failed"
    )
    parser.add_argument(
        "-n", "--namespace", default=DEFAULT_NAMESPACE, metavar="NAME", help="scope of the key (%(default)s)"
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add the choice of JSON."""
    parser.add_argument("--json", action="store_true", help="print JSON, for scripts")


def add_identity(parser: argparse.ArgumentParser) -> None:
    """Add the options that say on whose behalf a command acts that does not live on itself."""
    who = parser.add_mutually_exclusive_group()
    who.add_argument(
        "--for-pid",
        type=int,
        metavar="PID",
        help="on behalf of a process that lives on, such as a shell's $$: its claims end with it",
    )
    who.add_argument(
        "--session",
        metavar="NAME",
        help=f"on behalf of a name: its claims end by release or when their time is up (else {SESSION_VARIABLE})",
    )


def chosen_session(options: SimpleNamespace, store: Store) -> Session | None:
    """Return the session on whose behalf *options* and the environment say to act, if they do."""
    from mcp_claims.session.identity import named_session, session_for_process

    if options.for_pid is not None:
        return session_for_process(store, options.for_pid)
    name = options.session if options.session is not None else os.environ.get(SESSION_VARIABLE)
    return None if name is None else named_session(store, name)


def needed_session(options: SimpleNamespace, store: Store) -> Session:
    """Return the session on whose behalf to act; raise `InvalidInputError` where nothing says so."""
    session = chosen_session(options, store)
    if session is None:
        raise InvalidInputError(
            "--for-pid",
            "or --session has to say on whose behalf, since this command ends at once and its claims would with it; "
            "for the time of one command there is `mcp-claims run`",
        )
    return session


def say(text: str, facts: object, *, as_json: bool) -> None:
    """Print *facts* as JSON, or else *text*."""
    write_line(format_json(facts, indent=2) if as_json else text)
