"""`mcp-claims wait KEY...`: ends when it is your turn, so that a host that started it in the background wakes its agent."""

from __future__ import annotations

import argparse
import signal
import time
from collections.abc import Iterator, Sequence
from concurrent import futures
from contextlib import ExitStack, closing, contextmanager
from functools import partial

from mcp_claims.cli.claim_commands import report_wait
from mcp_claims.cli.errors import NO, YES, UsageError
from mcp_claims.cli.options import (
    LONGEST_WAIT,
    SECOND,
    add_epilog,
    add_identity,
    add_json,
    add_key,
    add_label,
    add_store_options,
    add_terms,
    chosen_session,
    chosen_store,
    describe_session,
    duration,
    required_session,
)
from mcp_claims.cli.output import print_result, write_error
from mcp_claims.errors import InvalidInputError
from mcp_claims.model import expiry
from mcp_claims.model.records import Claim
from mcp_claims.model.validation import ClaimRequest, InspectRequest
from mcp_claims.render import phrases
from mcp_claims.render.answers import Rendered, claim_answer, inspect_answer
from mcp_claims.session.acquire import ANSWER_TIMEOUT, Wakeup, acquire
from mcp_claims.session.identity import process_session
from mcp_claims.session.results import ClaimResult, Inspection, Status
from mcp_claims.session.session import Session
from mcp_claims.stores.base import call_before

_Call = futures.Future[ClaimResult]

_MAX_KEYS = 64  # a thread waits for each
_POLL_INTERVAL = 2.0  # s; a notice can be lost

_CLAIM_FIRST = "This claims nothing: claim it before you act."
_STILL_HELD = "To take it from a holder that hangs: mcp-claims release KEY --force."
_STAYS_DONE = "What is done stays done. The next occurrence is a new key."


def configure_wait(parser: argparse.ArgumentParser) -> None:
    """Configure the parser of `wait`."""
    add_epilog(
        parser,
        "  mcp-claims wait deploy:staging                                    # until it is free; claims nothing\n"
        "  mcp-claims wait deploy:staging --take --session ci --timeout 30m\n"
        "  mcp-claims wait gpu:0 gpu:1 --any --take --for-pid $$             # the first that becomes free",
        "0 free, or with --take yours, 1 the time is up, or the work is done",
    )
    add_store_options(parser)
    add_key(parser).nargs = "+"
    parser.add_argument("--any", action="store_true", help="wait until one of the keys is free, not all")
    parser.add_argument(
        "--timeout",
        type=duration(SECOND),
        default=LONGEST_WAIT,
        metavar="DURATION",
        help="how long to wait at most: 90s, 30m, 2h; a number is seconds (no limit)",
    )
    add_json(parser)
    taking = parser.add_argument_group("to take it")
    taking.add_argument("--take", action="store_true", help="claim the key, or with --any the first that is free")
    add_identity(taking)
    add_label(taking)
    add_terms(taking)
    parser.set_defaults(run=_wait)


def _wait(options: argparse.Namespace) -> int:
    if not 0 <= options.timeout <= LONGEST_WAIT:
        raise InvalidInputError("timeout", "must be from 0 to 366 days")
    if len(keys := tuple(dict.fromkeys(options.key))) > _MAX_KEYS:
        raise InvalidInputError("key", f"must be at most {_MAX_KEYS} keys")
    if options.take and len(keys) > 1 and not options.any:
        raise UsageError("--take takes one key. With several, add --any: it takes the first that is free.")
    requests = [
        ClaimRequest.parse(key, options.namespace, ttl_minutes=options.ttl, note=options.note)._replace(
            wait_seconds=options.timeout
        )
        for key in keys
    ]
    store = chosen_store(options)
    answers: list[Rendered]
    if options.take:
        session = required_session(options, store)
        describe_session(session, options)
        requests = [session.resolved(request) for request in requests]
        taken = _take_first(session, requests)
        answers = [claim_answer(request.scoped, result) for request, result in taken]
        your_turn = any(result.claimed for _, result in taken)
        done = any(result.status is Status.DONE for _, result in taken)
        for request, result in taken:
            if result.status is Status.ACQUIRED and (near := session.near_claims(request.scoped)):
                write_error(phrases.near(near))
    else:
        session = chosen_session(options, store) or process_session(store)
        requests = [session.resolved(request) for request in requests]
        seen = _wait_until_free(session, requests, any_of_them=options.any)
        answers = [inspect_answer(request.scoped, each) for request, each in zip(requests, seen, strict=True)]
        your_turn = _is_your_turn(seen, any_of_them=options.any)
        done = any(each.done for each in seen)
    advice = "" if your_turn and options.take else _CLAIM_FIRST if your_turn else _STAYS_DONE if done else _STILL_HELD
    text = (" " if len(answers) == 1 else "\n").join(filter(None, [*(answer.lead for answer in answers), advice]))
    facts = [{name: value for name, value in each.structured.items() if name != "advice"} for each in answers]
    print_result(text, {"your_turn": your_turn, "keys": facts}, as_json=options.json)
    return YES if your_turn else NO


def _wait_until_free(session: Session, requests: Sequence[ClaimRequest], *, any_of_them: bool) -> list[Inspection]:
    """Wait until *session* could take all keys at once, or any of them; return how they stood last.

    Ends earlier when the time of *requests* is up, and when the work on what it waits for is done.
    """
    deadline = time.monotonic() + requests[0].wait_seconds
    reports = [report_wait(request) for request in requests]
    with closing(Wakeup()) as wakeup, ExitStack() as watches:
        for request in requests:
            watches.enter_context(session.watch(request.scoped, wakeup.set))
        while True:
            seen = _inspect_all(session, requests)
            if len(seen) > 1 and not any_of_them and _is_your_turn(seen, any_of_them=False):
                # One after the other they may have been free without ever being so together.
                seen = _inspect_all(session, requests)
            held = [(report, each) for report, each in zip(reports, seen, strict=True) if not each.free_to_have_alone]
            done = any(each.done for each in seen)
            left = deadline - time.monotonic()
            if left <= 0 or not held or (done and not any_of_them) or _is_your_turn(seen, any_of_them=any_of_them):
                return seen
            for report, each in held:
                assert each.found is not None
                report(ClaimResult(Status.HELD, each.found, each.now))
            _pause(session, wakeup, [each for _, each in held], left)


def _inspect_all(session: Session, requests: Sequence[ClaimRequest]) -> list[Inspection]:
    return [
        call_before(time.monotonic() + ANSWER_TIMEOUT, partial(session.inspect_request, InspectRequest(request.scoped)))
        for request in requests
    ]


def _is_your_turn(seen: Sequence[Inspection], *, any_of_them: bool) -> bool:
    free = [each.free_to_have_alone and not each.done for each in seen]
    return any(free) if any_of_them else all(free)


def _pause(session: Session, wakeup: Wakeup, held: Sequence[Inspection], left: float) -> None:
    """Wait for a notice, the end of a holder's process or of a claim, the poll interval, or *left* seconds."""
    seconds = min(left, _POLL_INTERVAL)
    with ExitStack() as watches:
        exits = []
        for each in held:
            if not isinstance(each.found, Claim):
                continue
            if (expires := expiry.expires_in(each.found, each.now)) is not None:
                seconds = min(seconds, max(0.0, expires.total_seconds()))
            if (watched := session.watch_exit(each.found.holder)) is not None:
                exits.append(watches.enter_context(closing(watched)))
        wakeup.wait(seconds, *exits)


def _take_first(session: Session, requests: Sequence[ClaimRequest]) -> list[tuple[ClaimRequest, ClaimResult]]:
    """Claim the first key of *requests* that is free; return that result, or how each attempt went.

    Raises `UsageError` if the process that *session* acts for ends meanwhile.
    """
    results: dict[ClaimRequest, ClaimResult] = {}
    for request in requests:
        results[request] = session.try_request(request)
        if results[request].claimed:
            return [(request, results[request])]
    waiting = [request for request, result in results.items() if result.status is Status.HELD]
    if not waiting or waiting[0].wait_seconds <= 0:
        return list(results.items())
    wakeups = [Wakeup() for _ in waiting]
    kept: _Call | None = None
    # A handler that raised could do so while this thread holds a lock of the calls, which would then never end.
    with _signals_stop(wakeups) as signals, futures.ThreadPoolExecutor(len(waiting)) as pool:
        calls: dict[_Call, ClaimRequest] = {}
        try:
            for request, wakeup in zip(waiting, wakeups, strict=True):
                call = pool.submit(acquire, session, request, refused=report_wait(request), wakeup=wakeup)
                calls[call] = request
            kept = _first_grant(session, set(calls))
        finally:
            for wakeup in wakeups:
                wakeup.stop()
            # Two keys may be granted at once, or one just before a signal ends the wait: the caller learns of one at most.
            kept = None if signals else kept
            for call in calls:
                if call is not kept and call.exception() is None:
                    session.undo(call.result())
            for wakeup in wakeups:
                wakeup.close()
    if kept is not None:
        return [(calls[kept], kept.result())]
    if signals:
        raise SystemExit(128 + signals[0])
    results.update((request, call.result()) for call, request in calls.items())
    return list(results.items())


@contextmanager
def _signals_stop(wakeups: Sequence[Wakeup]) -> Iterator[list[int]]:
    """Let the signals that end a command stop the waits of *wakeups*; yield those that have come."""
    received: list[int] = []

    def stop(number: int, frame: object) -> None:
        received.append(number)
        for wakeup in wakeups:
            wakeup.stop()

    defaults = (signal.SIG_DFL, signal.default_int_handler)
    names = [name for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    handled = [number for name in names if signal.getsignal(number := getattr(signal, name)) in defaults]
    before = [signal.signal(number, stop) for number in handled]
    try:
        yield received
    finally:
        for number, handler in zip(handled, before, strict=True):
            signal.signal(number, handler)


def _first_grant(session: Session, pending: set[_Call]) -> _Call | None:
    """Return the first call of *pending* that claims its key, `None` if none does; raise what one raises."""
    while pending:
        finished, pending = futures.wait(pending, _POLL_INTERVAL, futures.FIRST_COMPLETED)
        if (granted := next((call for call in finished if call.result().claimed), None)) is not None:
            return granted
        if session.process_has_ended():
            raise UsageError("The process of --for-pid has ended, so nothing is claimed for it.")
    return None
