"""Which claims of other sessions are in the way of what git is about to commit or to push.

Only reads.  A claim that others may share does not deny: what git does beside them is for their sessions to agree on.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from functools import cache
from typing import NamedTuple, TypeVar

from mcp_claims.errors import InvalidInputError
from mcp_claims.liveness import Machine, local_machine
from mcp_claims.model.keys import BRANCH, FILE, PLACES, conflict, is_file_key
from mcp_claims.model.names import is_same_session
from mcp_claims.model.records import ALONE, Claim, ScopedKey, Unreadable
from mcp_claims.session.host_session import HostSession, Whose, whose
from mcp_claims.session.places import Resolver
from mcp_claims.session.results import ClaimPage, ListedClaim
from mcp_claims.session.session import Session
from mcp_claims.stores.threads import call_within

T = TypeVar("T")

STORE_TIMEOUT = 1.0
"""Seconds within which the store has to answer: git waits for that."""

MAX_NAMES = 8
"""Paths or branches that are collected of each claim; one more says that there are others."""

_BRANCHES = "refs/heads/"
_FEW = 16
"""Keys that are read one by one: a list of all places costs a read for each claim in the store."""
_PAGE = 5_000


class Conflict(NamedTuple):
    """A claim, or a record that cannot be read, on some of what is committed or pushed.

    `names` are the paths or branches that it is about, none where that cannot be known.  With `in_doubt` it may be ours.
    """

    listed: ListedClaim
    names: tuple[str, ...]
    in_doubt: bool


_Claimed = tuple[ListedClaim, ScopedKey]
_Touched = dict[ListedClaim, list[str]]
"""The names that each stored record is about."""


def commit_conflicts(session: Session, us: HostSession, paths: Collection[str]) -> list[Conflict]:
    """Return what is in the way of a commit of the files at *paths*, which are absolute; they may be gone.

    What *session* holds, or anyone else in the host's session *us*, is not.  Raises as the store does, and `TimeoutError` if
    that has not answered within `STORE_TIMEOUT`.
    """
    resolver, judge = session.resolver(), _judge_for(session, us, local_machine())
    touched: _Touched = {}
    if len(paths) <= _FEW:
        for path, page in _in_time(lambda: [(each, _read_file(session, resolver, each)) for each in paths]):
            for listed in page.claims:
                _add(touched, listed, path)
    else:
        others = [listed for listed in _in_time(lambda: _all_places(session)) if judge(listed) is not Whose.OURS]
        claims = [(listed, listed.found.scoped) for listed in others if isinstance(listed.found, Claim)]
        _find_files(touched, resolver, paths, [(listed, key) for listed, key in claims if is_file_key(key)])
        _add_unreadable(touched, others)
    return _conflicts(touched, judge)


def push_conflicts(session: Session, us: HostSession, url: str, refs: Iterable[str]) -> list[Conflict]:
    """Return what is in the way of a push to *refs*, full names, of the repository at *url*, as git passes it to a hook.

    The rest is as in `commit_conflicts`.  Raises `InvalidInputError` for a URL that cannot be read.
    """
    resolver, judge = session.resolver(), _judge_for(session, us, local_machine())
    branches: dict[ScopedKey, str] = {}
    repository: str | None = None
    for ref in refs:
        if ref.startswith(_BRANCHES):
            name = ref.removeprefix(_BRANCHES)
            repository = resolver.repository_at(url) if repository is None else repository
            with suppress(InvalidInputError):  # Nobody can claim a branch of that name.
                branches[resolver.resolve(ScopedKey(PLACES, f"{BRANCH}{repository}:{name}"))] = name
    touched: _Touched = {}
    if len(branches) <= _FEW:
        for name, page in _in_time(lambda: [(of, session.read(key.key, PLACES)) for key, of in branches.items()]):
            for listed in page.claims:
                _add(touched, listed, name)
    else:
        places = _in_time(lambda: _all_places(session))
        for listed in places:
            if isinstance(listed.found, Claim) and listed.found.scoped in branches:
                _add(touched, listed, branches[listed.found.scoped])
        _add_unreadable(touched, places)
    return _conflicts(touched, judge)


def _in_time(read: Callable[[], T]) -> T:
    """Return `read()`; raise `TimeoutError` after `STORE_TIMEOUT`, as on a network file system that hangs."""
    return call_within(STORE_TIMEOUT, read)


def _judge_for(session: Session, us: HostSession, machine: Machine) -> Callable[[ListedClaim], Whose]:
    """Return what judges a record for *session* and *us*; what is in nobody's way counts as ours."""

    @cache
    def judge(listed: ListedClaim) -> Whose:
        found = listed.found
        if not listed.state.in_force:
            return Whose.OURS
        if isinstance(found, Unreadable):
            return Whose.UNKNOWN
        if found.use != ALONE or is_same_session(found.holder.name, session.holder.name):
            return Whose.OURS
        # Git runs in a shell, whose environment names no sub-agent: what any of its session holds is its own.
        return whose(found._replace(holder=found.holder._replace(agent=None)), us, machine)

    return judge


def _conflicts(touched: _Touched, judge: Callable[[ListedClaim], Whose]) -> list[Conflict]:
    return [
        Conflict(listed, tuple(names), whose is Whose.UNKNOWN)
        for listed, names in touched.items()
        if (whose := judge(listed)) is not Whose.OURS
    ]


def _add(touched: _Touched, listed: ListedClaim, name: str) -> None:
    names = touched.setdefault(listed, [])
    if len(names) <= MAX_NAMES:
        names.append(name)


def _add_unreadable(touched: _Touched, places: Iterable[ListedClaim]) -> None:
    """Add the records of *places* that cannot be read: each may be about anything."""
    touched.update({listed: [] for listed in places if isinstance(listed.found, Unreadable)})


def _read_file(session: Session, resolver: Resolver, path: str) -> ClaimPage:
    return session.read(_file_key(resolver, path).key, PLACES, overlapping=True)


def _all_places(session: Session) -> list[ListedClaim]:
    """Return what is stored for all files and branches."""
    found: list[ListedClaim] = []
    after: str | None = ""
    while after is not None:
        page = session.list_claims(PLACES, after=after, limit=_PAGE)
        found += page.claims
        after = page.after
    return found


def _find_files(touched: _Touched, resolver: Resolver, paths: Iterable[str], claims: list[_Claimed]) -> None:
    """Add the names of *paths* that *claims* are about.

    To resolve a path takes several system calls, so most files get their key from that of their directory.
    """

    @cache
    def near(directory: str) -> tuple[str | None, list[_Claimed]]:
        """Return the key of *directory*, `None` if it has none, and the claims that may be about files in it."""
        above = os.path.dirname(directory)
        # What is near a directory is near the one above it, unless a link has led elsewhere.
        candidates = claims if above == directory or os.path.islink(directory) else near(above)[1]
        if not candidates:
            return None, []
        try:
            key = resolver.resolve(ScopedKey(PLACES, f"{FILE}{os.path.join(directory, '')}"))
        except InvalidInputError:
            return None, candidates
        return key.key, [(listed, claimed) for listed, claimed in candidates if conflict(claimed, key)]

    for path in paths if claims else ():
        directory, name = os.path.split(path)
        above, candidates = near(directory)
        is_link = os.path.islink(path)
        # A claim of which enough names are known costs nothing more.
        candidates = [
            each for each in (claims if is_link else candidates) if len(touched.get(each[0], ())) <= MAX_NAMES
        ]
        if not candidates:
            continue
        # Such a name is the same on a file system that folds case, or composes accents.
        is_plain = above is not None and not is_link and name.isascii() and name == name.lower()
        key = ScopedKey(PLACES, f"{above}{name}") if is_plain else _file_key(resolver, path)
        for listed, claimed in candidates:
            if conflict(claimed, key):
                _add(touched, listed, path)


def _file_key(resolver: Resolver, path: str) -> ScopedKey:
    """Return the key of the file at *path*; if no key can name it, that of the nearest directory which one can."""
    while True:
        try:
            return resolver.resolve(ScopedKey(PLACES, f"{FILE}{path}"))
        except InvalidInputError:
            above = os.path.join(os.path.dirname(path.rstrip(os.sep)), "")
            if above == path:
                raise
            path = above
