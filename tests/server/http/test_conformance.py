"""The protocol's official conformance suite, for both kinds of protocol, against a real server.

The suite is made for a server with its own fixture tools, resources and prompts.  What needs those is listed with the
reason; everything else has to pass, and what is listed has to fail still, or it belongs out of the list.

Needs `MCP_CLAIMS_CONFORMANCE`: a directory into which npm has installed what `.ci/run` names.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.support.http_servers import http_server
from tests.support.servers import PYTHON_ENVIRONMENT

INSTALLED = os.environ.get("MCP_CLAIMS_CONFORMANCE")

pytestmark = pytest.mark.skipif(
    INSTALLED is None and "CI" not in os.environ,
    reason="install it as .ci/run does and set MCP_CLAIMS_CONFORMANCE to the directory",
)

FIXTURE = "calls a tool of the suite's own"
RESOURCE, PROMPT = "reads or watches a resource of the suite's own", "gets a prompt of the suite's own"
NO_LOGGING = "this server does not send its log to clients"
EXTENSION = "an extension that this server does not offer"

SCENARIOS_NOT_APPLICABLE = {
    "elicitation-sep1034-defaults": FIXTURE,
    "elicitation-sep1330-enums": FIXTURE,
    "http-custom-header-server-validation": FIXTURE,
    "input-required-result-basic-elicitation": FIXTURE,
    "input-required-result-basic-list-roots": FIXTURE,
    "input-required-result-basic-sampling": FIXTURE,
    "input-required-result-capability-check": FIXTURE,
    "input-required-result-multi-round": FIXTURE,
    "input-required-result-multiple-input-requests": FIXTURE,
    "input-required-result-non-tool-request": PROMPT,
    "input-required-result-request-state": FIXTURE,
    "input-required-result-result-type": FIXTURE,
    "input-required-result-tampered-state": FIXTURE,
    "json-schema-2020-12": FIXTURE,
    "logging-set-level": NO_LOGGING,
    "prompts-get-embedded-resource": PROMPT,
    "prompts-get-simple": PROMPT,
    "prompts-get-with-args": PROMPT,
    "prompts-get-with-image": PROMPT,
    "resources-read-binary": RESOURCE,
    "resources-read-text": RESOURCE,
    "resources-subscribe": RESOURCE,
    "resources-templates-read": RESOURCE,
    "resources-unsubscribe": RESOURCE,
    "tasks-capability-negotiation": EXTENSION,
    "tasks-dispatch-and-envelope": EXTENSION,
    "tasks-lifecycle": EXTENSION,
    "tasks-mrtr-composition": EXTENSION,
    "tasks-mrtr-input": EXTENSION,
    "tasks-request-headers": EXTENSION,
    "tasks-request-state-removal": EXTENSION,
    "tasks-required-task-error": EXTENSION,
    "tasks-wire-fields": EXTENSION,
    "tools-call-audio": FIXTURE,
    "tools-call-elicitation": FIXTURE,
    "tools-call-embedded-resource": FIXTURE,
    "tools-call-error": FIXTURE,
    "tools-call-image": FIXTURE,
    "tools-call-mixed-content": FIXTURE,
    "tools-call-sampling": FIXTURE,
    "tools-call-simple-text": FIXTURE,
    "tools-call-with-logging": FIXTURE,
    "tools-call-with-progress": FIXTURE,
}
CHECKS_NOT_APPLICABLE = {
    "sep-2575-http-server-no-independent-requests-on-stream": FIXTURE,
    "sep-2575-missing-capability-http-400": FIXTURE,
    "sep-2575-server-no-log-without-loglevel": FIXTURE,
    "sep-2575-server-rejects-undeclared-capability": FIXTURE,
}
GENERIC = {
    "2025-11-25": {
        "dns-rebinding-protection",
        "completion-complete",
        "ping",
        "prompts-list",
        "resources-list",
        "server-initialize",
        "server-session-lifecycle",
        "server-sse-multiple-streams",
        "tools-list",
    },
    "2026-07-28": {
        "caching",
        "completion-complete",
        "dns-rebinding-protection",
        "http-header-validation",
        "input-required-result-ignore-extra-params",
        "input-required-result-missing-input-response",
        "input-required-result-unsupported-methods",
        "input-required-result-validate-input",
        "prompts-list",
        "resources-list",
        "sep-2164-resource-not-found",
        "server-sse-multiple-streams",
        "server-stateless",
        "tools-list",
    },
}


def results(directory: Path, revision: str, url: str) -> dict[str, dict[str, str]]:
    """Run the suite; return what became of each check of each scenario."""
    assert INSTALLED, "CI has to install the conformance suite"
    binaries = Path(INSTALLED) / "node_modules" / ".bin"
    done = subprocess.run(
        [str(binaries / "conformance"), "server", "--url", url, "--requirements", revision, "-o", str(directory)],
        env=PYTHON_ENVIRONMENT | {"PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    scenarios = {}
    for path in directory.glob("server-*/checks.json"):
        # The name ends in the time at which the scenario was run.
        name = re.sub(r"-\d{4}-\d\d-\d\dT.*", "", path.parent.name.removeprefix("server-"))
        checks: dict[str, str] = {}
        for check in json.loads(path.read_text()):
            # One that is made several times has failed if it failed once.
            if checks.get(check["id"]) != "FAILURE":
                checks[check["id"]] = check["status"]
        scenarios[name] = checks
    assert scenarios, done.stderr
    return scenarios


@pytest.mark.parametrize("revision", GENERIC)
def test_all_that_does_not_need_the_suites_own_fixtures_passes(tmp_path: Path, revision: str) -> None:
    with http_server(tmp_path / "claims") as server:
        scenarios = results(tmp_path / "results", revision, server.url)
    failed = {
        name: {check for check, status in checks.items() if status == "FAILURE"} for name, checks in scenarios.items()
    }
    unexpected = {
        name: checks - set(CHECKS_NOT_APPLICABLE)
        for name, checks in failed.items()
        if name not in SCENARIOS_NOT_APPLICABLE and checks - set(CHECKS_NOT_APPLICABLE)
    }
    assert not unexpected
    assert GENERIC[revision] <= {name for name in scenarios if "SUCCESS" in scenarios[name].values()}
    outdated = {name for name, checks in failed.items() if not checks} & set(SCENARIOS_NOT_APPLICABLE)
    assert not outdated, "these pass now; take them out of the list"
