"""Configuration files as people and programs write them: made up by hypothesis, in all layouts."""

from __future__ import annotations

import json

from hypothesis import strategies as st

from mcp_claims.hosts.jsonc import JsonText

ENTRY = {"command": "/opt/py thon/bin/python", "args": ["-P", "-m", "mcp_claims", "serve", "--dir", "/tmp/ü"]}

_KEYS = st.sampled_from(["mcpServers", "other", "a b", "claims-2", "ключ", "//", "x,y", "}"])
_SCALARS = (
    st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from(["", "a", "// no", "/* no */", 'q"\\', ",}", "ü"])
)


def json_values(depth: int = 3) -> st.SearchStrategy[object]:
    """Values to put into files."""
    if depth == 0:
        return _SCALARS
    inner = json_values(depth - 1)
    return _SCALARS | st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=3)


SERVERS = st.dictionaries(_KEYS, st.dictionaries(_KEYS, json_values(1), max_size=2), max_size=3)


@st.composite
def json_files(draw: st.DrawFn, form: JsonText, servers: st.SearchStrategy[object] = SERVERS) -> str:
    """A file with or without servers in it, in any layout, in what *form* allows."""
    tree = draw(st.dictionaries(_KEYS, json_values(), max_size=3))
    tree.pop("mcpServers", None)
    if draw(st.booleans()):
        items = [*tree.items()]
        items.insert(draw(st.integers(0, len(items))), ("mcpServers", draw(servers)))
        tree = dict(items)
    newline = draw(st.sampled_from(["\n", "\r\n"]))
    fillings = ["", "", " ", newline, f"{newline}  ", f"{newline}\t"]
    if form.comments:
        fillings += [f" // c{newline}", f"{newline}// }} {newline}  ", "/* c, } */", f" /* a{newline}b */ "]

    def gap() -> str:
        return draw(st.sampled_from(fillings))

    def spelt(value: object) -> str:
        if isinstance(value, dict):
            parts = [
                f"{gap()}{json.dumps(key, ensure_ascii=False)}{gap()}:{gap()}{spelt(each)}{gap()}"
                for key, each in value.items()
            ]
            return "{" + closed(parts) + "}"
        if isinstance(value, list):
            return "[" + closed([f"{gap()}{spelt(each)}{gap()}" for each in value]) + "]"
        return json.dumps(value, ensure_ascii=False)

    def closed(parts: list[str]) -> str:
        trailing = "," if form.trailing_commas and parts and draw(st.booleans()) else ""
        return ",".join(parts) + trailing + gap()

    return gap() + spelt(tree) + gap()


def is_within(part: str, whole: str) -> bool:
    """Return whether *whole* is *part* with something put in between: nothing of *part* is gone or moved."""
    rest = iter(whole)
    return all(character in rest for character in part)
