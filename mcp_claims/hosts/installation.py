"""How a host can start what is installed here, and whether that lasts as long as the entry does."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from mcp_claims.errors import InvalidInputError

_DISTRIBUTION, _PACKAGE = "mcp-claims", "mcp_claims"
_TEMPORARY = ("/tmp", "/var/tmp")
_ADVICE = "`uv tool install {0}` or `pipx install {0}` makes a lasting one; then run this again from there."


@dataclass(frozen=True, slots=True)
class Installation:
    """A command that runs `mcp-claims`, and *warning* if it may soon be gone."""

    command: str
    arguments: tuple[str, ...]
    warning: str | None = None


def find_installation(environment: Mapping[str, str]) -> Installation:
    """Return how to start this package.

    That is this interpreter, or uvx if that has put the package into its cache, from which it may go at any time.
    Raises `InvalidInputError` if the interpreter is not known.
    """
    if not os.path.isabs(sys.executable):
        raise InvalidInputError("the interpreter", f"must have an absolute path, not {sys.executable!r}")
    prefix = Path(sys.prefix).resolve()
    cache = next(_caches(prefix), None)
    uvx = shutil.which("uvx", path=environment.get("PATH"))
    if cache is not None and uvx is not None and _made_by_uv(prefix):
        source = _source()
        chosen = ("--from", f"{_DISTRIBUTION} @ {source}") if source else ()
        return Installation(os.path.abspath(uvx), (*chosen, _DISTRIBUTION))
    # With -P: a host starts it in the project's directory, where a folder of our name would be imported instead.
    # Not resolved: in a virtual environment it is a link to an interpreter that does not find the package.
    return Installation(os.path.abspath(sys.executable), ("-P", "-m", _PACKAGE), _warning(prefix, cache, environment))


def _warning(prefix: Path, cache: Path | None, environment: Mapping[str, str]) -> str | None:
    if cache is not None:
        return f"it will be started from {prefix}, in a cache that may be emptied at any time. {_advice(_DISTRIBUTION)}"
    # Not `tempfile.gettempdir()`, which writes a file to find out.
    temporary = [*_TEMPORARY, *map(environment.get, ("TMPDIR", "TEMP", "TMP"))]
    for place in (prefix, Path(__file__).resolve().parent):
        if any(place.is_relative_to(Path(each).resolve()) for each in temporary if each):
            return f"it will be started from {place}, in a directory for temporary files. {_advice(_DISTRIBUTION)}"
        if (clone := next((each for each in place.parents if (each / ".git").exists()), None)) is not None:
            # As a path, whatever its name; and the package may not be published.
            source = str(clone) if (clone / "pyproject.toml").exists() else _DISTRIBUTION
            return f"it will be started from {clone}, a clone: keep that. {_advice(source)}"
    return None


def _advice(source: str) -> str:
    return _ADVICE.format(shlex.quote(source))


def _caches(place: Path) -> Iterator[Path]:
    """Yield the caches that *place* is in: marked as https://bford.info/cachedir/ says, or called so."""
    for parent in place.parents:
        # uv marks the environments that it makes as well, which last: so `place` itself does not count.
        if (parent / "CACHEDIR.TAG").is_file() or parent.name in (".cache", "Caches"):
            yield parent


def _made_by_uv(prefix: Path) -> bool:
    try:
        lines = (prefix / "pyvenv.cfg").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    return any(line.split("=")[0].strip() == "uv" for line in lines)


def _source() -> str | None:
    """Return from where the package was installed if not from an index, as a URL: PEP 610."""
    try:
        text = distribution(_DISTRIBUTION).read_text("direct_url.json")
    except PackageNotFoundError:
        return None
    if text is None:
        return None
    source = json.loads(text)
    vcs = source.get("vcs_info")
    return f"{vcs['vcs']}+{source['url']}@{vcs['commit_id']}" if vcs else str(source["url"])
