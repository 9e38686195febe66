"""`mcp-claims doctor`: is everything as claims need it?"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from mcp_claims.cli.options import add_store_options, chosen_store
from mcp_claims.cli.output import write_line
from mcp_claims.doctor import Finding, Level, diagnose, diagnose_cluster
from mcp_claims.stores.agent_awareness.store import AgentAwarenessStore
from mcp_claims.stores.config import STORE_VARIABLE, located

_ORDER = (Level.OK, Level.WARNING, Level.FAILURE)


def add_doctor(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and its options."""
    doctor = commands.add_parser(
        "doctor",
        help="look whether everything is as claims need it",
        description="Look whether everything is as claims need it. Changes no claim. Exit code 1 if something fails.",
        epilog="example: mcp-claims doctor --hosts",
    )
    add_store_options(doctor)
    doctor.add_argument("--hosts", action="store_true", help="also look at the hosts, and start what they would start")
    doctor.add_argument("--json", action="store_true", help="print JSON")
    doctor.set_defaults(run=_doctor)


def _doctor(options: argparse.Namespace) -> int:
    store = chosen_store(options)
    if isinstance(store, AgentAwarenessStore):
        findings = list(diagnose(Path(store.directory), "in the layout of agent-awareness", store))
    elif store.remote:
        from mcp_claims.stores.etcd.store import EtcdStore

        assert isinstance(store, EtcdStore)
        findings = list(diagnose_cluster(store, "--store" if options.store is not None else STORE_VARIABLE))
    else:
        directory, chosen_by = located(options.dir)
        findings = list(diagnose(Path(directory), chosen_by))
    if options.hosts:
        # Imported here: it brings what edits files, which nothing else of this needs.
        from mcp_claims.doctor.hosts import examine_hosts
        from mcp_claims.hosts import Surroundings

        findings += examine_hosts(Surroundings(Path.home(), sys.platform, os.environ))
    worst = max((finding.level for finding in findings), key=_ORDER.index)
    text = _as_json(findings, worst) if options.json else _as_lines(findings)
    write_line(text)
    return 1 if worst is Level.FAILURE else 0


def _as_json(findings: list[Finding], worst: Level) -> str:
    listed = [
        {"check": each.check, "level": each.level.name.lower(), "what": each.what, "remedy": each.remedy}
        for each in findings
    ]
    return json.dumps({"worst": worst.name.lower(), "findings": listed}, indent=2)


def _as_lines(findings: list[Finding]) -> str:
    width = max(len(finding.check) for finding in findings)
    lines = []
    for each in findings:
        lines.append(f"{each.level.value:4}  {each.check:{width}}  {each.what}")
        if each.remedy:
            lines.append(f"{'':{width + 8}}-> {each.remedy}")
    return "\n".join(lines)
