"""Which files a patch in the format of `apply_patch` is about.  Pure: it reads nothing but the text."""

from __future__ import annotations

from collections.abc import Iterator

MAX_PATHS = 200
MAX_PATH = 4_096
_MAX_TEXT = 1 << 20
"""Characters that are read: patches that add whole files are long, and a marker after them counts as well."""

_BEGIN, _END = "*** Begin Patch", "*** End Patch"
_MARKERS = ("*** Add File:", "*** Update File:", "*** Delete File:", "*** Move to:")


def patched_paths(text: str) -> list[str]:
    """Return the paths that the patch adds, updates, deletes or moves to, as it writes them, each once.

    What stands before `*** Begin Patch` or after `*** End Patch` does not count, unless no line begins a patch.
    """
    paths: dict[str, None] = {}
    for path in _marked(text[:_MAX_TEXT].split("\n")):
        if 0 < len(path) <= MAX_PATH:
            paths[path] = None
            if len(paths) == MAX_PATHS:
                break
    return list(paths)


def _marked(lines: list[str]) -> Iterator[str]:
    # Codex ignores blanks around a marker, also where a line of context may stand: read otherwise, one blank hides a path.
    # It is stricter only about where a patch ends, so the end alone has to stand at the beginning of its line.
    inside = not any(line.strip() == _BEGIN for line in lines)
    for line in lines:
        trimmed = line.strip()
        if trimmed == _BEGIN:
            inside = True
        elif line.rstrip() == _END:
            inside = False
        elif inside and trimmed.startswith(_MARKERS):
            yield trimmed.partition(":")[2].strip()
