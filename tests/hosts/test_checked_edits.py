"""Whatever an editor of a format does wrong, it is found out before anything is written."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from mcp_claims.hosts.errors import UneditableTextError
from mcp_claims.hosts.format import put_server, remove_server
from mcp_claims.hosts.jsonc import JsonText

PLACE, TEXT = ("mcpServers",), '{"a": 1, "mcpServers": {"docs": {}, "claims": {"command": "x"}}}'
WRONG = {
    "a setting is lost": '{"mcpServers": {"docs": {}, "claims": {"command": "y"}}}',
    "another server is lost": '{"a": 1, "mcpServers": {"claims": {"command": "y"}}}',
    "ours is another": '{"a": 1, "mcpServers": {"docs": {}, "claims": {"command": "z"}}}',
    "it does not parse": '{"a": 1, "mcpServers": {"docs": {}, "claims": {"command": "y"}}',
    "nothing is changed": TEXT,
}


class Careless(JsonText):
    """Turns any text into the given one."""

    made = ""

    def put(self, text: str, key_path: Sequence[str], name: str, entry: object) -> str:
        return self.made

    def remove(self, text: str, key_path: Sequence[str], name: str) -> str:
        return self.made


@pytest.mark.rule("H2")
@pytest.mark.parametrize("made", WRONG.values(), ids=WRONG)
def test_an_edit_that_does_something_else_is_refused(made: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Careless, "made", made)
    with pytest.raises(UneditableTextError, match="cannot be edited safely"):
        put_server(Careless(), TEXT, PLACE, "claims", {"command": "y"})
    with pytest.raises(UneditableTextError, match="cannot be edited safely"):
        remove_server(Careless(), TEXT, PLACE, "claims")


def test_an_edit_that_does_what_it_should_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    right = '{"a": 1, "mcpServers": {"docs": {}, "claims": {"command": "y"}}}'
    monkeypatch.setattr(Careless, "made", right)
    assert put_server(Careless(), TEXT, PLACE, "claims", {"command": "y"}) == right
