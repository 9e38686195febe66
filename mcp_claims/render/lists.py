"""Answers about many claims, and about sessions: `list_claims`, `prune`, `open_session`."""

import base64
import binascii
from typing import TypedDict

from mcp_claims.errors import InvalidInputError
from mcp_claims.model.text import one_line
from mcp_claims.render import phrases
from mcp_claims.render.answers import Losses, Rendered
from mcp_claims.render.listed import ListedFacts, describe_listed
from mcp_claims.session.results import ClaimPage, PruneResult

_SHOWN_PROBLEMS = 3
_CHECKSUM_BYTES = 4


class _MaybeCursor(Losses, total=False):
    cursor: str


class ListAnswer(_MaybeCursor):
    """The answer of `list_claims`: a page of claims, and the cursor of the next page."""

    claims: list[ListedFacts]
    advice: str


class PruneAnswer(Losses):
    """The answer of `prune`: what was removed, what was kept, and what needs a person."""

    expired: int
    orphaned: int
    unreadable: int
    live: int
    outcomes: int
    problems: list[str]
    advice: str


class OpenSessionAnswer(TypedDict):
    """The answer of `open_session`: the handle, which is a secret, and the public name it acts under."""

    session: str
    holder: str
    advice: str


def list_answer(page: ClaimPage, cursor: str | None) -> Rendered:
    """Answer `list_claims`; *cursor* leads to the next page."""
    advice = f"There are more: call list_claims with cursor={cursor}." if cursor else "That is all."
    described = [describe_listed(listed, page.now) for listed in page.claims]
    answer: ListAnswer = {"claims": [facts for facts, _ in described], "advice": advice}
    if cursor is not None:
        answer["cursor"] = cursor
    count = f"{len(page.claims)} {'claim' if len(page.claims) == 1 else 'claims'}"
    lines = [f"LISTED: {count}.", *(f"- {line}" for _, line in described)]
    return Rendered(answer, "\n".join(lines))


def prune_answer(result: PruneResult, *, shown: int | None = _SHOWN_PROBLEMS) -> Rendered:
    """Answer `prune`, with the first *shown* problems and the number of the others; `None` shows all."""
    problems = [f"Kept, since it cannot be read: {phrases.unreadable(kept)}." for kept in result.kept_unreadable]
    problems += [f"Not removed: {one_line(str(failure))}" for failure in result.failed]
    if shown is not None and len(problems) > shown:
        problems = [*problems[:shown], f"And {len(problems) - shown} more."]
    if any(kept.remedy for kept in result.kept_unreadable):
        advice = "Ask a person to carry out the remedies in problems."
    elif result.kept_unreadable:
        advice = "Ask a person to look at each file, and to delete it if nobody works on that key."
    elif result.failed:
        advice = "Try again later for what could not be removed."
    else:
        advice = "There is nothing else to do."
    answer: PruneAnswer = {
        "expired": result.expired,
        "orphaned": result.orphaned,
        "unreadable": result.unreadable,
        "live": result.live,
        "outcomes": result.markers,
        "problems": problems,
        "advice": advice,
    }
    lead = (
        f"PRUNED: removed {result.expired} expired, {result.orphaned} orphaned and {result.unreadable} unreadable; "
        f"kept {result.live} live, {result.markers} outcomes and {len(result.kept_unreadable)} unreadable."
    )
    return Rendered(answer, " ".join([lead, *problems]))


def open_session_answer(handle: str, holder: str) -> Rendered:
    """Answer `open_session`."""
    advice = (
        "Pass it as `session` in every call. Keep it secret: anyone who has it can act as you. What you claim with it is "
        "yours alone, not your connection's."
    )
    answer: OpenSessionAnswer = {"session": handle, "holder": phrases.shown(holder), "advice": advice}
    return Rendered(answer, f"OPENED: session {handle} (others see you as {holder}).")


def encode_cursor(position: str) -> str:
    """Return *position* as a cursor: text that a model copies faithfully."""
    data = position.encode(errors="surrogateescape")
    # The checksum is last: as its first byte may be any, a cursor began with `-` at times, and `--cursor` did not take it.
    return base64.urlsafe_b64encode(data + _checksum(data)).rstrip(b"=").decode()


def decode_cursor(cursor: str | None) -> str:
    """Return the position of *cursor*, the beginning for `None`; raise `InvalidInputError` if it is not a cursor."""
    if cursor is None:
        return ""
    try:
        data = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        data = b""
    position, checksum = data[:-_CHECKSUM_BYTES], data[-_CHECKSUM_BYTES:]
    if checksum != _checksum(position):
        # A position that no cursor stood for would end the list without a word.
        raise InvalidInputError("cursor", "must be exactly what list_claims returned")
    return position.decode(errors="surrogateescape")


def _checksum(data: bytes) -> bytes:
    return binascii.crc32(data).to_bytes(_CHECKSUM_BYTES)
