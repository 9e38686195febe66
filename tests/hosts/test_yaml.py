"""YAML: what is not ours keeps every byte, whatever the layout."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_claims.hosts.errors import UneditableTextError
from mcp_claims.hosts.format import put_server, remove_server
from mcp_claims.hosts.yaml import YamlText
from tests.hosts.texts import ENTRY, is_within

FORM, PLACE = YamlText(), ("mcpServers",)
HEAD = "name: Mine\nversion: 1.0.0\nschema: v1\n"
OTHERS = [
    "models: # mine\n  - name: GPT\n    roles: [chat, edit] # both\n",
    "prompts:\n- name: test\n  prompt: |\n    - name: claims\n\n    mcpServers:\n\n",
    "# a comment\n",
    "\n",
    "rules:\n  - 'x: y'\n  - >-\n    folded\n    text\n",
    "defaults: &d\n  a: 1\nmore:\n  <<: *d\n",
]
SERVERS = [
    "mcpServers:\n  - name: docs\n    command: docs # why\n    args:\n      - a\n      - b # last\n",
    "mcpServers:\n- name: docs\n  command: docs\n  env: {A: b}\n\n- name: other\n  command: |\n    long\n",
    "mcpServers: # all\n    -   name: docs\n        command: docs\n    # the end\n",
    "mcpServers:\n  - uses: some/block\n  - name: remote\n    url: https://example.com\n    type: sse\n",
]
EMPTY = ["mcpServers: []\n", "mcpServers:\n", "mcpServers: [] # none\n", "mcpServers: # none\n"]


@st.composite
def yaml_files(draw: st.DrawFn, servers: list[str]) -> str:
    parts = draw(st.lists(st.sampled_from(OTHERS), unique=True))
    if servers:
        parts.insert(draw(st.integers(0, len(parts))), draw(st.sampled_from(servers)))
    text = HEAD + "".join(parts)
    # Without its line break, the text of a literal block would be another one.
    if draw(st.booleans()) and not text.rstrip().endswith(("text", "long", "    mcpServers:")):
        text = text.rstrip("\n")
    return text.replace("\n", draw(st.sampled_from(["\n", "\r\n"])))


@pytest.mark.rule("H1")
@settings(deadline=None, max_examples=40)
@given(yaml_files(SERVERS))
def test_a_server_is_put_beside_others_and_goes_out_again_to_the_byte(text: str) -> None:
    after = put_server(FORM, text, PLACE, "claims", ENTRY)
    assert is_within(text, after)
    assert remove_server(FORM, after, PLACE, "claims") == text


@settings(deadline=None, max_examples=40)
@given(yaml_files([]))
def test_a_server_is_put_where_there_were_none_and_goes_out_again_to_the_byte(text: str) -> None:
    after = put_server(FORM, text, PLACE, "claims", ENTRY)
    assert is_within(text, after)
    assert remove_server(FORM, after, PLACE, "claims").rstrip() == text.rstrip()


@settings(deadline=None, max_examples=40)
@given(yaml_files(EMPTY))
def test_a_list_without_servers_gets_its_first(text: str) -> None:
    after = put_server(FORM, text, PLACE, "claims", ENTRY)
    assert is_within(text.replace(" []", ""), after)
    remove_server(FORM, after, PLACE, "claims")


@settings(deadline=None, max_examples=40)
@given(yaml_files(SERVERS))
def test_a_server_is_replaced_in_its_place(text: str) -> None:
    once = put_server(FORM, text, PLACE, "claims", {"command": "old"})
    assert put_server(FORM, once, PLACE, "claims", ENTRY) == put_server(FORM, text, PLACE, "claims", ENTRY)


OURS = """mcpServers:
  # ours
  - args: # how
      - "-P" # no folder of the project
      - -m
      # the package
      - mcp_claims
      - serve # it
    name: claims # its name
    command: /gone/python # gone
    env: {A: b} # mine
    # the end
  - name: docs
"""


@pytest.mark.rule("H1")
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize(
    ("entry", "changes"),
    [
        ({"args": ["-I", "-m", "mcp_claims", "serve"]}, {'"-P"': '"-I"'}),
        ({"args": ["-P", "-m", "mcp_claims"]}, {"      - serve # it\n": ""}),
        (
            {"args": ["-P", "-I", "-m", "mcp_claims", "serve", "--x"], "timeout": 3},
            {
                "      - -m": '      - "-I"\n      - -m',
                " # it\n": ' # it\n      - "--x"\n',
                "    # the end": "    timeout: 3\n    # the end",
            },
        ),
    ],
)
def test_of_an_item_only_what_differs_is_replaced(
    entry: dict[str, object], changes: dict[str, str], newline: str
) -> None:
    expected = OURS.replace("/gone/python", '"/python"')
    for old, new in changes.items():
        expected = expected.replace(old, new)
    entry = {"env": {"A": "b"}, "command": "/python", **entry}
    after = put_server(FORM, OURS.replace("\n", newline), PLACE, "claims", entry)
    assert after == expected.replace("\n", newline)


@pytest.mark.parametrize(
    ("text", "after"),
    [
        ("args: [a, b] # why", 'args: ["c"] # why'),
        ("args:", 'args: ["c"]'),
        ("args: # why", 'args: ["c"] # why'),
        ("args: null # why", 'args: ["c"] # why'),
        ("args: []", 'args: ["c"]'),
        ("args: |\n    text\n  a: 1", 'args: ["c"]\n  a: 1'),
    ],
)
def test_a_value_of_another_form_is_replaced_in_its_place(text: str, after: str) -> None:
    before = f"mcpServers:\n- name: claims\n  {text}\n"
    entry = {**FORM.servers(FORM.parse(before), PLACE)["claims"], "args": ["c"]}
    assert put_server(FORM, before, PLACE, "claims", entry) == before.replace(text, after)


@settings(deadline=None, max_examples=40)
@given(yaml_files(SERVERS))
def test_others_can_be_taken_out_too(text: str) -> None:
    for name in FORM.servers(FORM.parse(text), PLACE):
        # A comment below a list that goes would become part of a literal block above it: that is refused.
        if not name.startswith("\0") and "# the end" not in text:
            assert is_within(remove_server(FORM, text, PLACE, name), text)


def test_a_new_file_has_what_the_host_wants_in_each() -> None:
    tree = FORM.parse(put_server(FORM, "", PLACE, "claims", ENTRY))
    assert tree == {**YamlText.skeleton, "mcpServers": [{"name": "claims", **ENTRY}]}


@pytest.mark.rule("H2")
@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a: [", "not valid YAML"),
        ("- a", "not a YAML mapping"),
        ("mcpServers: x", "which is not a list"),
        ("mcpServers: [{name: a, command: b}]", "in one line"),
        ("{name: a}", "cannot be edited safely|not one YAML document"),
        ("a: 1\n---\nb: 2", "not valid YAML"),
        ("a: &x [{name: b}]\nmcpServers: *x", "alias|in one line"),
        ("mcpServers:\n- name: a\n- name: a\n", "two servers"),
        ("a: !!python/object:os.system {}", "not valid YAML"),
        ("\0", "not valid YAML"),
        ("a: " + "9" * 5_000, "digits"),
    ],
)
def test_what_cannot_be_edited_safely_is_refused(text: str, why: str) -> None:
    with pytest.raises(UneditableTextError, match=why):
        put_server(FORM, text, PLACE, "claims", ENTRY)


@pytest.mark.rule("H2")
def test_an_edit_that_would_change_something_else_is_refused() -> None:
    # Without the list, the comment below it would be part of the text above it.
    with pytest.raises(UneditableTextError, match="cannot be edited safely"):
        remove_server(FORM, "p: |\n    say\nmcpServers:\n    - name: a\n    # theirs\n", PLACE, "a")
    # With something after it, the last line of the text would get a line break.
    with pytest.raises(UneditableTextError, match="cannot be edited safely"):
        put_server(FORM, "mcpServers:\n- name: a\n  command: |\n    long", PLACE, "claims", ENTRY)
