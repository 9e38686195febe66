"""The workflows run what they are pinned to, with no more rights than they need."""

from __future__ import annotations

import re
import subprocess

import pytest

from tests.packaging.places import ROOT, UV, needs_uv

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.stem)
def test_every_action_is_pinned_to_a_commit_and_says_which_version_that_is(file: object) -> None:
    """A tag can be moved to other code by whoever owns the action."""
    text = file.read_text()  # type: ignore[attr-defined]
    uses = re.findall(r"uses: (.*)", text)
    assert uses and all(re.fullmatch(r"[\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", each) for each in uses), uses


def test_an_action_has_one_version_everywhere() -> None:
    pins = {pin for file in WORKFLOWS for pin in re.findall(r"uses: (\S+@\S+)", file.read_text())}
    assert len({pin.partition("@")[0] for pin in pins}) == len(pins)


@needs_uv
def test_zizmor_finds_nothing() -> None:
    done = subprocess.run(
        [f"{UV}/zizmor", "--offline", "--no-progress", str(ROOT / ".github")],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@needs_uv
def test_no_file_has_a_common_misspelling() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    skipped = ("uv.lock", ".svg", ".png", "mcp_claims/server/plain.json")
    files = [name for name in listed.split("\0") if name and not name.endswith(skipped)]
    done = subprocess.run(
        [f"{UV}/codespell", *files], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
