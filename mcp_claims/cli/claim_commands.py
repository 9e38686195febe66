"""`mcp-claims show`, `try`, `check`, `release` and `prune`: the tools of the server, for scripts and people."""

from __future__ import annotations

import argparse
import getpass
import sys
from datetime import timedelta

from mcp_claims.cli.errors import NO, YES, UsageError
from mcp_claims.cli.holders import holder_details
from mcp_claims.cli.options import (
    LONGEST_WAIT,
    add_claim,
    add_epilog,
    add_identity,
    add_json,
    add_key,
    add_label,
    add_namespace,
    add_retention,
    add_store_options,
    add_ways,
    check_ways,
    chosen_session,
    chosen_store,
    claim_request,
    describe_session,
    looking_session,
    required_session,
)
from mcp_claims.cli.output import print_result, write_error
from mcp_claims.model.expiry import ClaimState
from mcp_claims.model.names import is_same_session
from mcp_claims.model.records import ALONE, Claim, Found, Outcome, ScopedKey, Unreadable, Use
from mcp_claims.model.validation import ClaimRequest, InspectRequest, ReleaseRequest
from mcp_claims.render import phrases
from mcp_claims.render.answers import Rendered, claim_answer, inspect_answer, release_answer, replaced_beside, subject
from mcp_claims.render.listed import listed_facts, listed_line
from mcp_claims.render.lists import prune_answer
from mcp_claims.session.acquire import Refused, acquire
from mcp_claims.session.identity import person_session, process_session
from mcp_claims.session.results import ClaimResult, ListedClaim, Status
from mcp_claims.session.session import Session
from mcp_claims.stores.base import Store

_REVOKE = "To take it from a holder that hangs: mcp-claims release KEY --force."
_YOUR_HOLD = "It is your own `hold`: mcp-claims release KEY --person ends it."
_UNREADABLE = "Look at the file, and delete it if nobody works on this."
_HINTS = {
    Status.HELD: f"To wait for it: mcp-claims try {{keys}} --wait 5m. {_REVOKE}",
    Status.DONE: "The next occurrence is a new key. To do the same again: mcp-claims try {keys} --redo, or first mcp-claims forget KEY.",
}
_OUTCOMES = tuple(outcome.value for outcome in (Outcome.DONE, Outcome.FAILED, Outcome.ABANDONED))


def configure_show(parser: argparse.ArgumentParser) -> None:
    """Configure the parser of `show`."""
    add_epilog(
        parser,
        "  mcp-claims show nightly:2026-11-28 --json",
        "0 there is a claim or an outcome, 1 there is none",
    )
    add_store_options(parser)
    add_key(parser)
    add_identity(parser)
    add_json(parser)
    parser.set_defaults(run=_show)


def _show(options: argparse.Namespace) -> int:
    scoped = InspectRequest.parse(options.key, options.namespace).scoped
    store = chosen_store(options)
    session = looking_session(options, store)
    scoped = session.resolve(scoped)
    page = session.read(scoped.key, scoped.namespace)
    if not page.claims:
        facts = {"key": phrases.shown(scoped.key), "namespace": phrases.shown(scoped.namespace), "state": "free"}
        print_result(f"FREE: nobody holds {phrases.named(scoped)}.", facts, as_json=options.json)
        return NO
    blocks: list[str] = []
    known: dict[str, object] = {}
    for listed in page.claims:
        own = holder_details(listed, session.is_ours, local=not session.remote)
        each = {**listed_facts(listed, page.now), **own}
        width = max(map(len, each))
        details = "\n".join(f"{name:{width}}  {value}" for name, value in each.items())
        blocks.append(f"{listed_line(listed, page.now)}\n\n{details}")
        known = known or each
    if len(page.claims) > 1:
        # As for one, and the others with it.
        known["holders"] = [listed_facts(listed, page.now) for listed in page.claims]
    print_result("\n\n".join(blocks), known, as_json=options.json)
    return YES


def configure_try(parser: argparse.ArgumentParser) -> None:
    """Configure the parser of `try`."""
    add_epilog(
        parser,
        "  mcp-claims try nightly:2026-11-28 --for-pid $$ && make nightly\n"
        '  mcp-claims try "acme/web#12:red@3f2a91c" --session ci --wait 5m\n'
        "  mcp-claims try file:src/ branch:main --all --for-pid $$",
        "0 claimed or renewed, 1 held by another session or done",
    )
    add_store_options(parser)
    add_claim(parser).nargs = "+"
    add_ways(parser)
    add_identity(parser)
    add_label(parser)
    add_json(parser)
    parser.set_defaults(run=_try)


def _try(options: argparse.Namespace) -> int:
    check_ways(options)
    request = claim_request(options)
    session = required_session(options, chosen_store(options))
    describe_session(session, options)
    request = session.resolved(request)
    result = acquire(session, request, refused=report_wait(request))
    keys = "KEY" if len(request.keys) == 1 else "KEY KEY… --any" if request.or_else else "KEY KEY… --all"
    keys += " --shared" if options.shared else "" if options.slots is None else f" --slots {options.slots}"
    hint = _HINTS.get(result.status, "").format(keys=keys)
    return print_claim(session, subject(request, result), result, options, hint, request.keys, request.use)


def report_wait(request: ClaimRequest) -> Refused:
    """Return a function that writes to stderr whom *request* waits for; each holder once."""
    reported: set[str] = set()

    def report(result: ClaimResult) -> None:
        lead = claim_answer(subject(request, result), result, keys=request.keys, use=request.use).lead
        holder = result.found.holder.name if isinstance(result.found, Claim) else lead
        if request.wait_seconds > 0 and holder not in reported:
            reported.add(holder)
            limit = f" up to {phrases.span(timedelta(seconds=request.wait_seconds))}"
            write_error(f"waiting{limit if request.wait_seconds < LONGEST_WAIT else ''}. {lead}")

    return report


def print_claim(
    session: Session,
    scoped: ScopedKey,
    result: ClaimResult,
    options: argparse.Namespace,
    hint: str,
    keys: tuple[ScopedKey, ...] = (),
    use: Use = ALONE,
) -> int:
    """Print the *result* of a claim with a *hint* for people, and held keys that look like *scoped*; return the exit code.

    *keys* are all that were asked for, if there were several, each in the way *use*.
    """
    if result.blocked_by_own:
        hint = phrases.own_way(result.found)
    elif result.cycle:
        hint = phrases.cycle(result.cycle)
    elif result.missing:
        hint = "Release what you still hold, then claim all again."
    beside = replaced_beside(scoped, result)
    blocking = phrases.in_the_way(result.in_the_way).rstrip() if len(keys) > 1 and not result.missing else ""
    way = phrases.other_way(result.found, use, option=True).rstrip() if result.status is Status.HELD else ""
    hint = " ".join(filter(None, (beside, blocking, way, hint)))
    _print_answer(claim_answer(scoped, result, keys=keys, use=use), result.found, options, hint)
    like_files = tuple(filter(session.looks_like_files, keys or (scoped,))) if result.status is Status.ACQUIRED else ()
    if like_files:
        write_error(phrases.no_file(like_files))
    if result.status is Status.ACQUIRED and (near := session.near_claims(scoped)):
        write_error(phrases.near(near))
    return YES if result.claimed else NO


def configure_check(parser: argparse.ArgumentParser) -> None:
    """Configure the parser of `check`."""
    add_epilog(
        parser,
        "  mcp-claims check nightly:2026-11-28 || exit\n"
        "  mcp-claims check nightly:2026-11-28 --generation 7 && git push",
        "0 you may, 1 you may not (with --generation: 0 in force, 1 not in force)",
    )
    add_store_options(parser)
    add_key(parser)
    add_identity(parser)
    parser.add_argument(
        "--generation", type=int, metavar="N", help="check instead whether the claim of generation N is in force"
    )
    add_json(parser)
    parser.set_defaults(run=_check)


def _check(options: argparse.Namespace) -> int:
    request = InspectRequest.parse(options.key, options.namespace, generation=options.generation)
    store = chosen_store(options)
    session = looking_session(options, store)
    request = session.resolved(request)
    inspection = session.inspect_request(request)
    if isinstance(inspection.found, Claim) and inspection.claimed_by_other and session.is_ours(inspection.found):
        inspection = inspection._replace(held_by_you=True)
    hint = _HINTS[Status.HELD] if inspection.claimed_by_other else _HINTS[Status.DONE] if inspection.done else ""
    _print_answer(inspect_answer(request.scoped, inspection), inspection.found, options, hint.format(keys="KEY"))
    free = not inspection.claimed_by_other and not inspection.done
    return YES if (free if inspection.in_force is None else inspection.in_force) else NO


def configure_release(parser: argparse.ArgumentParser) -> None:
    """Configure the parser of `release`."""
    add_epilog(
        parser,
        "  mcp-claims release nightly:2026-11-28 --for-pid $$ --outcome done --note 'built 1.4'\n"
        "  mcp-claims release deploy:staging                        # what you hold by `mcp-claims hold`\n"
        "  mcp-claims release nightly:2026-11-28 --force --note 'that host is gone'",
        "0 released, 1 not released",
    )
    add_store_options(parser)
    add_key(parser)
    add_identity(parser).add_argument(
        "--person",
        action="store_true",
        help="release what you hold by `mcp-claims hold`; needed only if the environment names a session",
    )
    parser.add_argument("--outcome", choices=_OUTCOMES, help="how the work ended; what is done is not done again")
    parser.add_argument("--note", metavar="TEXT", help="how it ended, for the others; with --force, the reason")
    add_retention(parser)
    parser.add_argument("--force", action="store_true", help="revoke the claim of any session; asks first")
    parser.add_argument("--yes", action="store_true", help="with --force: do not ask")
    parser.add_argument(
        "--generation", type=int, metavar="N", help="with --force: the one of several holders whose claim has it"
    )
    add_json(parser)
    parser.set_defaults(run=_release)


def _release(options: argparse.Namespace) -> int:
    if options.force:
        return _revoke(options)
    request = ReleaseRequest.parse(
        options.key,
        options.namespace,
        outcome=options.outcome,
        note=options.note,
        retention_hours=options.retention,
    )
    store = chosen_store(options)
    person = person_session(store)
    request = person.resolved(request)
    result = _releasing_session(options, store, person, request.scoped).release_request(request)
    hint = ""
    if isinstance(result.found, Claim) and result.found.ended is None and not result.released:
        hint = _YOUR_HOLD if is_same_session(result.found.holder.name, person.holder.name) else _REVOKE
    _print_answer(release_answer(request.scoped, result), result.found, options, hint)
    return YES if result.released else NO


def _releasing_session(options: argparse.Namespace, store: Store, person: Session, scoped: ScopedKey) -> Session:
    """Return the session that *options* or the environment name; if they name none, *person*, who holds *scoped*.

    A job of the same user may have its session from the environment: it must not end what its user holds.
    """
    session = person if options.person else chosen_session(options, store)
    if session is None:
        stored = person.read(scoped.key, scoped.namespace).claims
        found = stored[0].found if stored else None
        if isinstance(found, Claim) and is_same_session(found.holder.name, person.holder.name):
            return person
    return session or required_session(options, store)


def _revoke(options: argparse.Namespace) -> int:
    scoped = InspectRequest.parse(options.key, options.namespace).scoped
    session = process_session(chosen_store(options))
    session.describe_client(f"mcp-claims release --force by {_user()}")
    scoped = session.resolve(scoped)
    stored = session.read(scoped.key, scoped.namespace)
    claims = [each for each in stored.claims if options.generation is None or _generation(each) == options.generation]
    if len(claims) > 1:
        for each in claims:
            write_error(listed_line(each, stored.now))
        raise UsageError("Several sessions hold it. Say whose claim to revoke: --generation N.")
    listed = claims[0] if claims else None
    if listed is None or (isinstance(listed.found, Claim) and listed.found.ended is not None):
        return _not_revoked("Nobody holds it.", options)
    if listed.state.in_force and not options.yes:
        write_error(listed_line(listed, stored.now))
        if not _confirm("Revoke it? Its holder may still be acting on it. [y/N] "):
            return _not_revoked("Nothing was changed.", options)
    if not session.revoke(listed.found, options.note):
        return _not_revoked("The claim has changed meanwhile: check it again.", options)
    if isinstance(listed.found, Unreadable):
        print_result("REVOKED: the unreadable claim is gone.", {"released": True}, as_json=options.json)
        return YES
    holder = phrases.shown(listed.found.holder.name)
    text = f"REVOKED: {phrases.person(holder) or holder} no longer holds it, and learns so from its next call."
    if listed.state is ClaimState.RESERVED:
        text = f"REVOKED: it is no longer kept for {holder}."
    print_result(text, {"released": True, "revoked_from": holder}, as_json=options.json)
    return YES


def _generation(listed: ListedClaim) -> int | None:
    return listed.found.generation if isinstance(listed.found, Claim) else None


def _not_revoked(why: str, options: argparse.Namespace) -> int:
    print_result(why, {"released": False}, as_json=options.json)
    return NO


def configure_forget(parser: argparse.ArgumentParser) -> None:
    """Configure the parser of `forget`."""
    add_epilog(
        parser,
        "  mcp-claims forget nightly:2026-11-28 && mcp-claims run --once nightly:2026-11-28 -- make nightly",
        "0 the record is gone, 1 there was none",
    )
    add_store_options(parser)
    add_key(parser)
    add_json(parser)
    parser.set_defaults(run=_forget)


def _forget(options: argparse.Namespace) -> int:
    scoped = InspectRequest.parse(options.key, options.namespace).scoped
    session = process_session(chosen_store(options))
    scoped = session.resolve(scoped)
    forgotten = session.forget(scoped.key, scoped.namespace)
    page = session.read(scoped.key, scoped.namespace)
    if forgotten:
        text = f"FORGOTTEN: how the work on {phrases.named(scoped)} ended."
    elif page.claims:
        text = f"NOTHING TO FORGET: {listed_line(page.claims[0], page.now)}"
    else:
        text = f"NOTHING TO FORGET: nothing is stored for {phrases.named(scoped)}."
    print_result(text, {"forgotten": forgotten}, as_json=options.json)
    return YES if forgotten else NO


def configure_prune(parser: argparse.ArgumentParser) -> None:
    """Configure the parser of `prune`."""
    add_epilog(
        parser,
        "  mcp-claims prune\n  mcp-claims prune -n ci --json",
        "0 all dead claims are removed, 1 something needs a person",
    )
    add_store_options(parser)
    add_namespace(parser, purpose="prune this namespace only")
    add_json(parser)
    parser.set_defaults(run=_prune)


def _prune(options: argparse.Namespace) -> int:
    result = process_session(chosen_store(options)).prune(options.namespace)
    answer = prune_answer(result, shown=None)
    hint = f" {_UNREADABLE}" if result.kept_unreadable else " Try again later." if result.failed else ""
    print_result(answer.lead + hint, answer.structured, as_json=options.json)
    return NO if result.failed or result.kept_unreadable else YES


def _print_answer(answer: Rendered, found: Found, options: argparse.Namespace, hint: str) -> None:
    """Print *answer* with what a person can do instead of its advice, which is for models."""
    hint = _UNREADABLE if isinstance(found, Unreadable) else hint
    print_result(" ".join(filter(None, (answer.lead, hint))), answer.structured, as_json=options.json)


def _confirm(question: str) -> bool:
    if not sys.stdin.isatty():
        write_error("stdin is no terminal, so nobody can be asked; --yes revokes without asking")
        return False
    print(question, end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().casefold() in ("y", "yes")


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "an unknown user"  # A user id without a name, as in many containers.
