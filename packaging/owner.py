"""Writes who owns the repository into all files that name it: `python packaging/owner.py NAME`.

`pyproject.toml` has it, the others repeat it.  Until the repository has a home it is OWNER; nothing is published so.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FILES = (
    "pyproject.toml",
    "README.md",
    "CHANGELOG.md",
    ".github/CODEOWNERS",
    ".github/ISSUE_TEMPLATE/config.yml",
    "docs/hosts/index.md",
    "docs/llms.txt",
    "docs/troubleshooting.md",
    "docs/zensical.toml",
    "packaging/server.json",
    "packaging/Dockerfile",
)
UNKNOWN = "OWNER"
_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,38})"
_PLACES = re.compile(
    rf"(?<=github\.com/){_NAME}(?=/mcp-claims)"
    rf"|(?<=githubusercontent\.com/){_NAME}(?=/mcp-claims)"
    rf"|(?<=https://){_NAME}(?=\.github\.io/mcp-claims)"
    rf"|(?<=io\.github\.){_NAME}(?=/mcp-claims)"
    rf"|(?<=^\* @){_NAME}$",
    re.MULTILINE,
)


def owner() -> str:
    """Return who owns the repository."""
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]
    return str(urls["Repository"].split("/")[3])


def names_in(text: str) -> set[str]:
    """Return each owner that *text* names."""
    return set(_PLACES.findall(text))


def main() -> int:
    """Write the owner; without an argument, print it, and fail while it is unknown."""
    if len(sys.argv) == 1:
        print(owner())
        return int(owner() == UNKNOWN)
    if not re.fullmatch(_NAME, sys.argv[1]):
        print(f"{sys.argv[1]!r} is no name of a user or an organization", file=sys.stderr)
        return 2
    for name in FILES:
        file = ROOT / name
        file.write_text(_PLACES.sub(sys.argv[1], file.read_text()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
