"""`mcp-claims try`, `check`, `release` and `prune`: what the tools do, for scripts and people."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING

from mcp_claims.cli.options import (
    NO,
    YES,
    add_command,
    add_identity,
    add_json,
    add_key,
    chosen_session,
    chosen_store,
    needed_session,
    say,
)
from mcp_claims.cli.output import write_error
from mcp_claims.model import validation
from mcp_claims.model.expiry import ClaimState
from mcp_claims.model.records import Claim, Outcome, Unreadable

if TYPE_CHECKING:
    import argparse
    from typing import Any

_OUTCOMES = tuple(outcome.value for outcome in (Outcome.DONE, Outcome.FAILED, Outcome.ABANDONED))


def add_try(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `try`."""
    command = add_command(
        commands,
        "try",
        "claim a key for somebody who lives on",
        '  mcp-claims try nightly --for-pid $$ && make nightly\n  mcp-claims try "acme/web#12:red" --session ci --wait 60',
    )
    add_key(command)
    add_identity(command)
    command.add_argument("--ttl", type=float, default=30, metavar="MINUTES", help="until it frees itself (%(default)g)")
    command.add_argument("--note", metavar="TEXT", help="what you are about to do, for the others")
    command.add_argument("--wait", type=float, default=0, metavar="SECONDS", help="if held, up to 300")
    command.add_argument("--redo", action="store_true", help="claim though it is done")
    add_json(command)
    command.set_defaults(run=_try)


def _try(options: SimpleNamespace) -> int:
    from mcp_claims.render import text
    from mcp_claims.render.structured import claim_facts
    from mcp_claims.session.acquire import acquire

    session = needed_session(options, chosen_store(options))
    scoped = validation.scoped_key(options.key, options.namespace)
    validation.ttl(options.ttl, "--ttl")
    attempt = acquire(
        session,
        scoped,
        validation.patience(options.wait, "--wait"),
        ttl_minutes=options.ttl,
        note=options.note,
        redo=options.redo,
    )
    facts = {"claimed": attempt.claimed, "status": attempt.status.value}
    say(
        text.attempt_lead(scoped, attempt),
        facts | _without_none(claim_facts(attempt.found, attempt.now)),
        as_json=options.json,
    )
    return YES if attempt.claimed else NO


def add_check(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `check`."""
    command = add_command(
        commands,
        "check",
        "tell whether a key is free: neither held by another session nor done",
        "  mcp-claims check nightly || exit\n  mcp-claims check nightly --generation 7 && git push",
    )
    add_key(command)
    add_identity(command)
    command.add_argument(
        "--generation", type=int, metavar="N", help="ask instead whether the grant of this generation is in force"
    )
    add_json(command)
    command.set_defaults(run=check)


def check(options: SimpleNamespace) -> int:
    """Run `check`."""
    from mcp_claims.render import text
    from mcp_claims.render.structured import claim_facts
    from mcp_claims.session.identity import process_session

    store = chosen_store(options)
    session = chosen_session(options, store) or process_session(store)
    look = session.inspect(options.key, options.namespace, generation=options.generation)
    done = look.marker is not None and look.marker.ended is not None and look.marker.ended.outcome is Outcome.DONE
    free = not look.claimed_by_other and not done if look.in_force is None else look.in_force
    facts = {
        "free": free if look.in_force is None else None,
        "in_force": look.in_force,
        "held_by_you": look.held_by_you,
        **claim_facts(look.found, look.now),
    }
    scoped = validation.scoped_key(options.key, options.namespace)
    say(text.look_lead(scoped, look), _without_none(facts), as_json=options.json)
    return YES if free else NO


def add_release(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `release`."""
    command = add_command(
        commands,
        "release",
        "give a claim back, or take away somebody's who hangs",
        "  mcp-claims release nightly --for-pid $$ --outcome done --note 'built 1.4'\n"
        "  mcp-claims release nightly --force --note 'that host is gone'",
    )
    add_key(command)
    add_identity(command)
    command.add_argument("--outcome", choices=_OUTCOMES, help="done: nobody is to do it again")
    command.add_argument("--note", metavar="TEXT", help="what became of it; with --force, why")
    command.add_argument(
        "--retention", type=float, default=24, metavar="HOURS", help="how long that is known (%(default)g)"
    )
    command.add_argument("--force", action="store_true", help="take it away from whoever holds it; asks first")
    command.add_argument("--yes", action="store_true", help="with --force: do not ask")
    add_json(command)
    command.set_defaults(run=_release)


def _release(options: SimpleNamespace) -> int:
    from mcp_claims.render import text
    from mcp_claims.render.structured import claim_facts

    if options.force:
        return _revoke(options)
    session = needed_session(options, chosen_store(options))
    validation.retention(options.retention, "--retention")
    release = session.release(
        options.key,
        options.namespace,
        outcome=Outcome(options.outcome) if options.outcome else None,
        note=options.note,
        retention_hours=options.retention,
    )
    scoped = validation.scoped_key(options.key, options.namespace)
    facts = {"released": release.released, **claim_facts(release.found, release.now)}
    say(text.release_lead(scoped, release), _without_none(facts), as_json=options.json)
    return YES if release.released else NO


def _revoke(options: SimpleNamespace) -> int:
    from mcp_claims.render import phrases, text
    from mcp_claims.session.identity import process_session

    session = process_session(chosen_store(options))
    session.describe_client(f"mcp-claims release --force by {_user()}")
    stored = session.stored(options.key, options.namespace)
    listed = stored.page[0] if stored.page else None
    if listed is None or (isinstance(listed.found, Claim) and listed.found.ended is not None):
        say("Nobody holds it.", {"released": False}, as_json=options.json)
        return NO
    if listed.state is ClaimState.HELD and not options.yes:
        write_error(text.listed_text(listed, stored.now))
        if not _agreed("Take it away? Its holder may still be acting on it. [y/N] "):
            say("Left alone.", {"released": False}, as_json=options.json)
            return NO
    revoked = session.revoke(listed.found, options.note)
    if not revoked:
        say("It has changed meanwhile; look again.", {"released": False}, as_json=options.json)
        return NO
    whom = None if isinstance(listed.found, Unreadable) else phrases.shown(listed.found.holder.name)
    said = (
        f"RELEASED: taken from {whom}, who is told so by its next call."
        if whom
        else "RELEASED: what could not be read is gone."
    )
    say(said, _without_none({"released": True, "taken_from": whom}), as_json=options.json)
    return YES


def add_prune(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `prune`."""
    command = add_command(
        commands,
        "prune",
        "remove claims that are expired, of dead sessions, or unreadable and nobody's",
        "  mcp-claims prune\n  mcp-claims prune -n ci --json",
    )
    command.add_argument("-n", "--namespace", metavar="NAME", help="only this one")
    add_json(command)
    command.set_defaults(run=_prune)


def _prune(options: SimpleNamespace) -> int:
    from mcp_claims.render import text
    from mcp_claims.render.structured import prune_facts
    from mcp_claims.session.identity import process_session

    pruned = process_session(chosen_store(options)).prune(options.namespace)
    say(f"{text.prune_lead(pruned)} {text.prune_advice(pruned)}", prune_facts(pruned), as_json=options.json)
    return NO if pruned.failed or pruned.kept_unreadable else YES


def _agreed(question: str) -> bool:
    if not sys.stdin.isatty():
        write_error("nobody can be asked here; --yes takes it away without")
        return False
    print(question, end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().casefold() in ("y", "yes")


def _user() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "somebody"  # A user without a name, as in many containers.


def _without_none(facts: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in facts.items() if value is not None}
