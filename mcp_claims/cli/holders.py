"""What tells the holder of a claim from others: its process, its label, its working directory and the branch there."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress

from mcp_claims.model.expiry import ClaimState
from mcp_claims.model.records import Claim, OriginalHolder, Proof
from mcp_claims.render import phrases
from mcp_claims.session.results import ListedClaim
from mcp_claims.stores.files.filesystem import READ, FileSystem, OpenFile

_GIT_BYTES = 4_096


def holder_details(listed: ListedClaim, is_ours: Callable[[Claim], bool], *, local: bool) -> dict[str, object]:
    """Return what is known of the holder of *listed*, for scripts, and whether it *is ours*.

    *local* says that the claims are files on this machine, so that its directory is one of this machine.
    """
    found = listed.found
    if not isinstance(found, Claim):
        return {}
    details: dict[str, object] = {"yours": is_ours(found)}
    if found.maker is not None:
        details["maker"] = phrases.shown(found.maker)
    if lives_in_process(found):
        details["pid"] = found.holder.pid
    for name, text in (("label", found.holder.label), ("directory", found.holder.directory)):
        if text is not None:
            details[name] = phrases.shown(text)
    if local and (branch := branch_of(listed, branch_in)):
        details["branch"] = phrases.shown(branch)
    return details


def lives_in_process(claim: Claim) -> bool:
    """Return whether *claim* belongs to a process, so that its PID says which."""
    return isinstance(claim.holder, OriginalHolder) or claim.holder.proof != Proof()


def branch_of(listed: ListedClaim, find: Callable[[str], str | None]) -> str | None:
    """Return what *find* returns for the directory in which the holder of *listed* works, while it holds the claim.

    The branch is not in the record: an agent that has claimed changes to another one as often as not.
    """
    if listed.state is ClaimState.HELD and isinstance(listed.found, Claim) and listed.found.holder.directory:
        return find(listed.found.holder.directory)
    return None


def branch_in(directory: str) -> str | None:
    """Return the branch that is checked out in *directory*, or above it; `None` if there is none, or a detached HEAD."""
    path = os.path.expanduser(directory)
    while os.path.isabs(path):
        git = os.path.join(path, ".git")
        if os.path.isfile(git):  # In a worktree it names the directory.
            git = os.path.join(path, _first_line(git).removeprefix("gitdir: "))
        if head := _first_line(os.path.join(git, "HEAD")):
            name = head.removeprefix("ref: refs/heads/")
            return name if name != head else None
        if path == os.path.dirname(path):
            break
        path = os.path.dirname(path)
    return None


def _first_line(path: str) -> str:
    fs = FileSystem()
    with suppress(OSError, ValueError), OpenFile(fs, path, READ) as fd:
        return fs.read(fd, _GIT_BYTES).decode(errors="replace").partition("\n")[0]
    return ""
