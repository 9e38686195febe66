"""The guard: what a hook of a host decides about an event, for the host's session in which it has happened."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from enum import StrEnum
from typing import Any, NamedTuple

from mcp_claims.errors import ClaimsError, InvalidInputError
from mcp_claims.guard import patches
from mcp_claims.guard.dialects import Answer, Dialect, HookEvent, Kind
from mcp_claims.guard.edits import LOCK_TIMEOUT, AtFile, Edits
from mcp_claims.guard.plain_keys import MAX_PATH, Touched
from mcp_claims.liveness import Machine
from mcp_claims.model.expiry import ClaimState
from mcp_claims.model.keys import FILE, is_branch_key, is_file_key
from mcp_claims.model.names import is_named
from mcp_claims.model.records import ALONE, Claim, Maker, ScopedKey
from mcp_claims.model.validation import scoped_key
from mcp_claims.render import phrases
from mcp_claims.render.listed import listed_line
from mcp_claims.session.host_session import HostSession, Whose
from mcp_claims.session.results import ListedClaim
from mcp_claims.session.session import Session

_PAGE = 500
_PATH_FIELDS = ("file_path", "notebook_path", "path", "filePath", "target_file", "absolute_path")
_PATCH_FIELDS = ("patchText", "patch", "input", "command")
TAKE_SESSION = frozenset({"try_claim", "is_claimed_by_other", "release", "list_claims"})
"""Our tools that have an argument `session`."""

_AN_EDIT = "an edit"


class Mode(StrEnum):
    """What the guard does before an edit."""

    #: It claims the files, and denies what another session holds.
    CLAIM = "claim"
    #: It denies what another session holds, and claims nothing.
    DENY = "deny"
    #: It also denies an edit of what the session has not claimed by a tool.
    REQUIRE = "require"
    #: It does nothing about edits: it only tells sub-agents apart, renews, and ends what ends with one or with a session.
    OFF = "off"


class GuardSettings(NamedTuple):
    """How to guard: whether to be *strict* in doubt, the name of our *server* in the host, the host's *project* directory."""

    mode: Mode = Mode.CLAIM
    strict: bool = False
    server: str = "claims"
    project: str | None = None
    on_page: Callable[[], object] = lambda: None


class _InForce(NamedTuple):
    """All that is in force, and what of it the session holds."""

    listed: list[ListedClaim]
    ours: list[Claim]

    @property
    def claims(self) -> list[Claim]:
        return [each.found for each in self.listed if isinstance(each.found, Claim)]


class Guard:
    """Answers events of one host for the agent for which *session* acts, in the host's session *us*.

    If that agent is not known, *session* is one that holds nothing, and nothing is claimed.  *handle* is that of a sub-agent,
    for its calls of our tools.  Every method raises what the store raises.
    """

    def __init__(
        self,
        session: Session,
        us: HostSession,
        machine: Machine,
        dialect: Dialect,
        settings: GuardSettings,
        handle: str | None = None,
    ) -> None:
        self._session, self._us, self._dialect, self._handle = session, us, dialect, handle
        self._settings = settings
        self._edits = Edits(session, us, machine)
        self._claims = settings.mode is Mode.CLAIM and session.maker is Maker.GUARD and session.has_places

    def answer(self, event: HookEvent) -> Answer:
        """Return the answer to *event*."""
        if event.kind is Kind.BEFORE_TOOL:
            return self._before_tool(event)
        in_force = self._in_force()
        if event.kind is Kind.SESSION_END:
            self._end_session(in_force.claims, event.reason)
            return Answer()
        if event.kind is Kind.AGENT_END:
            for claim in in_force.claims:
                if (
                    claim.holder.agent is not None
                    and claim.holder.agent == self._us.agent
                    and self._is_of_session(claim)
                ):
                    self._session.free(claim, lock_timeout=LOCK_TIMEOUT)
            return Answer()
        if event.kind is Kind.TURN_END:
            self._edits.end(in_force.ours)
        elif event.kind is Kind.AFTER_TOOL:
            self._edits.finish(in_force.ours, event.call)
        self._extend(in_force.ours)
        return Answer()

    def _in_force(self) -> _InForce:
        in_force, after = _InForce([], []), ""
        while True:
            # What is done is in the list, too, so a list that ends at a limit could hide all the rest.
            page = self._session.list_claims(after=after, limit=_PAGE)
            self._settings.on_page()
            for listed in page.claims:
                if listed.state.in_force:
                    in_force.listed.append(listed)
                    if isinstance(listed.found, Claim) and self._edits.whose(listed.found) is Whose.OURS:
                        in_force.ours.append(listed.found)
            if page.after is None:
                return in_force
            after = page.after

    def _extend(self, ours: Sequence[Claim]) -> None:
        """Renew what tools have claimed: a session that is at work does not lose it.  What the guard claims ends by itself."""
        for claim in ours:
            if claim.maker != Maker.GUARD:
                with suppress(ClaimsError):  # Somebody has the lock just now: the next event renews it.
                    self._session.extend(claim)

    def _end_session(self, claims: Sequence[Claim], reason: str | None) -> None:
        """End what the host's session and its sub-agents hold: the conversation is over, even if the servers go on."""
        self._session.describe_client("mcp-claims hook session-end")
        why = f"its session has ended ({reason})" if reason else "its session has ended"
        for claim in claims:
            # A session that somebody has named outlives all processes by intention.
            if not self._is_of_session(claim) or is_named(claim.holder.name):
                continue
            if claim.maker == Maker.GUARD or claim.holder.agent is not None:
                self._session.free(claim, lock_timeout=LOCK_TIMEOUT)
            else:
                self._session.revoke(claim, why, lock_timeout=LOCK_TIMEOUT)

    def _is_of_session(self, claim: Claim) -> bool:
        """Return whether any agent of the host's session holds *claim*."""
        return self._edits.whose(claim._replace(holder=claim.holder._replace(agent=None))) is Whose.OURS

    # Before a tool

    def _before_tool(self, event: HookEvent) -> Answer:
        tool = self._dialect.tool_of_ours(event, self._settings.server)
        if tool is None and self._settings.mode is not Mode.OFF and self._is_guarded(event):
            return self._before_edit(event)
        self._extend(self._in_force().ours)
        named = event.arguments.get("session")
        if tool not in TAKE_SESSION or self._handle is None or named or not self._dialect.changes_arguments:
            return Answer()
        return Answer(arguments={**event.arguments, "session": self._handle})

    def _is_guarded(self, event: HookEvent) -> bool:
        dialect = self._dialect
        # Where the host names no tool, its choice of tools for this hook decides.
        return not event.tool or event.tool in dialect.edit_tools | dialect.shell_tools | dialect.patch_tools

    def _before_edit(self, event: HookEvent) -> Answer:
        """Deny the edit if others hold what it touches, else claim that: nothing is claimed if anything is denied."""
        here = _working_directory(event.cwd)
        in_force = self._in_force()
        named, command = _named_paths(event.arguments), _command(event, self._dialect)
        if (plain := self._plain_key(Touched(named, command, here, self._settings.project), in_force)) is not None:
            return Answer(self._denied(plain))
        paths = _edited_paths(event, self._dialect, named, here)
        if command is not None:
            # Imported here: with the patterns of a shell it takes a tenth of the time of a hook, and most edits are no commands.
            from mcp_claims.guard import commands, pushes

            written = commands.read_command(command, here)
            paths += written.paths
            branches = [
                key for push in written.pushes if self._session.has_places for key in pushes.pushed_branches(push)
            ]
            if (held := self._held_branch(branches)) is not None:
                return Answer(self._denied(held))
        keys = self._file_keys(paths)
        at_files = {key: self._edits.read(key) for key in keys}
        judged = self._judge(at_files, in_force)
        if judged.denial is not None:
            return judged
        if self._claims:
            to_claim = [key for key, each in at_files.items() if not (each.has_tools or each.unknown)]
            refused = self._edits.claim(to_claim, event.call or _AN_EDIT)
            if refused is not None:
                return Answer(self._denied(refused.others[0])) if refused.others else self._doubt(refused)
        self._edits.note_wanted(in_force.ours, None)
        self._extend(in_force.ours)
        return judged

    def _judge(self, at_files: Mapping[ScopedKey, AtFile], in_force: _InForce) -> Answer:
        """Return a denial because of what is in force at the files of an edit, *at_files*; else a warning, or nothing."""
        judged = Answer()
        for key, at_file in at_files.items():
            if at_file.ours:
                continue  # Whoever shares a file with others has agreed to that.
            if at_file.others and (denial := self._denial(key, at_file, in_force)) is not None:
                return Answer(denial)
            if at_file.unknown:
                judged = self._doubt(at_file)
                if judged.denial is not None:
                    return judged
        for key, at_file in at_files.items():
            if self._settings.mode is Mode.REQUIRE and not at_file.has_tools:
                return Answer(
                    f"This session has not claimed {key.key}. Call try_claim with the key {key.key}, then edit; call release "
                    "when you have finished."
                )
        return judged

    def _plain_key(self, touched: Touched, in_force: _InForce) -> ListedClaim | None:
        """Return a claim of another session, on a key that is neither a file nor a branch, that is touched."""
        for listed in in_force.listed:
            claim = listed.found
            if not isinstance(claim, Claim) or is_file_key(claim.scoped) or is_branch_key(claim.scoped):
                continue
            # What several may have at once is for its sessions to agree on.
            if claim.use == ALONE and touched.by(claim) and self._edits.whose(claim) is Whose.OTHERS:
                return listed
        return None

    def _held_branch(self, branches: Sequence[ScopedKey]) -> ListedClaim | None:
        """Return a claim of another session on one of *branches*."""
        for key in branches:
            for listed in self._session.read(key.key, key.namespace).claims:
                found = listed.found
                if not isinstance(found, Claim) or not listed.state.in_force:
                    continue
                if found.use == ALONE and self._edits.whose(found) is Whose.OTHERS:
                    return listed
        return None

    def _denial(self, key: ScopedKey, at_file: AtFile, in_force: _InForce) -> str | None:
        """Return why an edit of *key* is denied; `None` if the session in the way has just given way."""
        listed = at_file.others[0]
        found = listed.found
        assert isinstance(found, Claim)
        cycle = self._edits.break_cycle(in_force.ours, in_force.claims, found)
        if cycle is None:
            self._edits.note_wanted(in_force.ours, key.key)
            return self._denied(listed, key)
        if not cycle.by_us and not self._edits.read(key).others:
            return None
        text = f"That session wants {cycle.wanted}, which this session holds: each would wait for the other."
        if cycle.by_us and cycle.freed:
            freed = ", ".join(cycle.freed)
            text += f" So what this session had claimed by its edits is free now ({freed}): read it again before you edit it."
        return self._denied(listed, key, text)

    def _doubt(self, at_file: AtFile) -> Answer:
        text = listed_line(at_file.unknown[0], self._session.now())
        if self._settings.strict:
            return Answer(f"{text} It cannot be known whether that is this session or another one, so this is denied.")
        return Answer(
            warning=f"{text} Whether that is this session or another one cannot be known: see that only one edits it."
        )

    def _denied(self, listed: ListedClaim, key: ScopedKey | None = None, more: str = "") -> str:
        """Return why the tool call is denied: *listed* is in its way, at the file *key* if it is for one."""
        found = listed.found
        assert isinstance(found, Claim)
        who = "Another agent of this session" if self._is_of_session(found) else "Another session"
        verb = "has claimed" if listed.state is ClaimState.HELD else "is next for"
        text = f"{who} {verb} this: {listed_line(listed, self._session.now())}"
        if key is not None and key != found.scoped.base:
            text += f" That covers {key.key}."
        wait = phrases.quoted(found.scoped.base.key)
        leave = f"Leave it alone: go on with something else, wait for it by try_claim (key {wait}, wait_seconds), or report it."
        return " ".join(filter(None, (text, more, leave)))

    def _file_keys(self, paths: Sequence[str]) -> list[ScopedKey]:
        """Return the keys of the files at *paths*, without those that no claim can be about."""
        keys: list[ScopedKey] = []
        for path in paths:
            if len(path) <= MAX_PATH:
                with suppress(InvalidInputError):
                    keys.append(self._session.resolve(scoped_key(f"{FILE}{path}")))
        return list(dict.fromkeys(keys))


def _named_paths(arguments: Mapping[str, Any]) -> list[str]:
    return [arguments[name] for name in _PATH_FIELDS if isinstance(arguments.get(name), str)]


def _command(event: HookEvent, dialect: Dialect) -> str | None:
    """Return the shell command that *event* is about, if it is about one."""
    command = event.arguments.get("command")
    return command if isinstance(command, str) and event.tool not in dialect.patch_tools else None


def _edited_paths(event: HookEvent, dialect: Dialect, named: Sequence[str], here: str) -> list[str]:
    """Return the absolute paths that *event* names, itself or in a patch."""
    paths = [*named]
    if event.tool in dialect.patch_tools:
        texts = (event.arguments.get(name) for name in _PATCH_FIELDS)
        paths += (path for text in texts if isinstance(text, str) for path in patches.patched_paths(text))
    return [os.path.join(here, path) for path in paths]


def _working_directory(cwd: str | None) -> str:
    """Return the directory from which the host names paths, which it describes as *cwd*."""
    try:
        return os.path.join(os.getcwd(), cwd or "")
    except FileNotFoundError:  # Our own working directory has been removed.
        return os.path.join("/", cwd or "")
