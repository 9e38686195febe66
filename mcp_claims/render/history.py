"""Events of a history, and what a check of it has found, as text for people.  What others wrote is shown quoted, on one line."""

from __future__ import annotations

from datetime import datetime, timedelta

from mcp_claims.model.history import Event, Kind
from mcp_claims.model.promises import Findings, Violation
from mcp_claims.render import phrases


def event_line(event: Event, today: datetime) -> str:
    """Return *event* as one line, in local time, with the date unless it is that of *today*."""
    local = event.at.astimezone()
    when = f"{local:%H:%M:%S}" if local.date() == today.astimezone().date() else f"{local:%b %d %H:%M:%S}"
    if event.kind is Kind.GAP:
        return f"{when}  gap         {event.times or 1} lines could not be read or written"
    number = f" #{event.generation}" if event.generation else ""
    what = f"{when}  {event.kind.value:10}  {phrases.quoted(event.key)}{number}"
    if event.namespace != "default":
        what += f" in {phrases.quoted(event.namespace)}"
    return f"{what}  {'; '.join(filter(None, (_way(event), who(event), *_details(event))))}"


def who(event: Event) -> str:
    """Return the session that *event* is about, as people know it."""
    if not event.holder:
        return ""
    known = [event.client, event.label, event.directory and f"in {event.directory}"]
    program = ", ".join(phrases.shown(part) for part in known if part)
    name = phrases.person(event.holder) or phrases.shown(event.holder)
    return f"{name} ({program})" if program else name


def _way(event: Event) -> str:
    if event.turn:
        return "kept for its turn"
    if event.slot is not None:
        return f"slot {event.slot} of 0 to {(event.slots or 1) - 1}"
    return "shared" if event.mode == "shared" else ""


def _details(event: Event) -> list[str]:
    details = []
    if event.outcome is not None:
        details.append(f"the work is {event.outcome}" if event.kind is Kind.REFUSED else f"outcome {event.outcome}")
    if event.found is not None and event.kind.begins:
        details.append(f"after #{event.found_generation}, {event.found}")
    if event.proof is not None:
        details.append(phrases.shown(event.proof))
    if event.by is not None:
        by = phrases.person(event.by) or phrases.shown(event.by)
        verbs = {Kind.REFUSED: "has it", Kind.LOST: "has it now", Kind.TAKEN_OVER: "had it", Kind.REVOKED: "revoked it"}
        did = event.kind is Kind.REFUSED and event.outcome is not None
        details.append(f"{by} {'did it' if did else verbs.get(event.kind, 'found that')}")
    if event.kind is Kind.REFUSED and (event.times or 1) > 1:
        details.append(f"{event.times} times")
    if event.duration_seconds is not None:
        details.append(f"after {phrases.span(timedelta(seconds=event.duration_seconds))}")
    if event.note is not None:
        details.append(f"note {phrases.quoted(event.note)}")
    return details


def violation_text(violation: Violation, today: datetime) -> str:
    """Return what was promised, the event that breaks it and the one that it is at odds with."""
    lines = [f"BROKEN: {violation.promise.value}: {violation.why}", f"  {event_line(violation.event, today)}"]
    if violation.other is not None:
        lines.append(f"  {event_line(violation.other, today)}")
    return "\n".join(lines)


def findings_text(findings: Findings, damaged: int) -> str:
    """Return in one paragraph what was checked and what is not known."""
    broken = len(findings.violations)
    verdict = "clean" if not broken else f"{broken} {'promise' if broken == 1 else 'promises'} broken"
    grants, turns = _counted(findings.grants, "grant"), _counted(findings.reservations, "turn")
    parts = [f"{grants} and {turns} checked: {verdict}."]
    if findings.in_force:
        parts.append(f"{findings.in_force:,} are in force, or have run out and nobody has asked for them since.")
    if findings.unknown:
        parts.append(f"Of {findings.unknown:,} no line says how they began or ended.")
    if damaged or findings.gaps:
        parts.append(f"{max(damaged, findings.gaps):,} lines cannot be read, or were not written.")
    return " ".join(parts)


def _counted(count: int, thing: str) -> str:
    return f"{count:,} {thing}" if count == 1 else f"{count:,} {thing}s"
