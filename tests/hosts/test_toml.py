"""TOML: what is not ours keeps every byte, whatever the layout."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_claims.hosts.errors import UneditableTextError
from mcp_claims.hosts.format import put_server, remove_server
from mcp_claims.hosts.toml import TomlText
from tests.hosts.texts import is_within

FORM, PLACE = TomlText(), ("mcp_servers",)
ENTRY = {"command": 'C:\\Py "thon"\\python.exe', "args": ["-P", "-m", "mcp_claims", "serve"], "startup_timeout_sec": 30}
PARTS = [
    "# a comment",
    "",
    "[mcp_servers.docs]\ncommand = 'docs' # why\nargs = [\n  'a', # first\n  'b',\n]",
    '[mcp_servers.docs.env]\nKEY = """\n[mcp_servers.claims]\n"""',
    '[projects."/a b"]\ntrust_level = "trusted"',
    "[[hooks]]\nname = 'x'",
    "[tui]\nthemes = { a = 1, b = [2] }",
    "[ mcp_servers . other ]\nurl = 'https://example.com'",
    "[mcp_servers.claims-2]\ncommand = 'x'",
    "# the end",
]


@st.composite
def toml_files(draw: st.DrawFn) -> str:
    parts = draw(st.lists(st.sampled_from(PARTS), unique=True))
    newline = draw(st.sampled_from(["\n", "\r\n"]))
    head = draw(st.sampled_from(["", 'model = "o3"\n', "\n\n# top\nmodel = 'o3' # yes\n"]))
    end = draw(st.sampled_from(["", "\n", "\n\n", "\n  \n"]))
    return (head + "\n".join(parts) + end).replace("\n", newline)


@pytest.mark.rule("H1")
@settings(deadline=None)
@given(toml_files())
def test_a_server_is_put_into_any_file_and_goes_out_again_to_the_byte(text: str) -> None:
    after = put_server(FORM, text, PLACE, "claims", ENTRY)
    assert FORM.parse(after)["mcp_servers"]["claims"] == ENTRY
    assert after.startswith(text)
    assert remove_server(FORM, after, PLACE, "claims") == text


@pytest.mark.rule("H1")
@settings(deadline=None)
@given(toml_files(), st.data())
def test_any_server_can_be_taken_out_and_no_comment_goes_with_it(text: str, data: st.DataObject) -> None:
    servers = FORM.servers(FORM.parse(text), PLACE)
    if servers:
        after = remove_server(FORM, text, PLACE, data.draw(st.sampled_from(sorted(servers))))
        assert is_within(after, text)
        assert [line for line in text.splitlines() if line.startswith("#")] == [
            line for line in after.splitlines() if line.startswith("#")
        ]


@settings(deadline=None)
@given(toml_files())
def test_a_server_is_changed_in_its_place(text: str) -> None:
    old = {**ENTRY, "command": "/gone/python"}
    newline = "\r\n" if "\r\n" in text else "\n"
    once = put_server(FORM, text, PLACE, "claims", old) + f"{newline}# after{newline}[after]{newline}"
    now = FORM.snippet(PLACE, "claims", ENTRY).splitlines()[1].removeprefix("command = ")
    assert put_server(FORM, once, PLACE, "claims", ENTRY) == once.replace('"/gone/python"', now)


@pytest.mark.rule("H1")
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize(
    ("arguments", "changes"),
    [
        (["-I", "-m", "mcp_claims", "serve"], {'"-P"': '"-I"'}),
        (
            ["-P", "-m", "mcp_claims", "serve", "--dir", "/x"],
            {"'serve', # serve it": '\'serve\', # serve it\n  "--dir",\n  "/x",'},
        ),
        (["-P", "-m", "mcp_claims"], {"  'serve', # serve it\n": ""}),
    ],
)
def test_of_a_table_only_what_differs_is_replaced(arguments: list[str], changes: dict[str, str], newline: str) -> None:
    text = (
        "[mcp_servers.claims] # ours\n# which one\nargs = [\n"
        "  \"-P\", # no folder of the project\n  '-m', 'mcp_claims',\n  'serve', # serve it\n]\n"
        'since = 2026-11-28 # a date\ncommand = "/gone/python" # gone\n\n'
        "[mcp_servers.claims.env] # mine\nA = 'b'\n\n# about others\n[other]\n"
    )
    entry = FORM.parse(text)["mcp_servers"]["claims"] | {"args": arguments, "command": "/python"}
    expected = text.replace("/gone/python", "/python")
    for old, new in changes.items():
        expected = expected.replace(old, new)
    after = put_server(FORM, text.replace("\n", newline), PLACE, "claims", entry)
    assert after == expected.replace("\n", newline)


@pytest.mark.parametrize(
    "text",
    [
        "mcp_servers = { docs = { command = 'docs' } } # inline\n",
        "[mcp_servers]\ndocs.command = 'docs' # dotted\n",
        "mcp_servers.docs.command = 'docs'\n",
        "[mcp_servers]\ndocs = { command = 'docs' }\n[tui]\na = 1 # kept\n",
    ],
)
def test_servers_written_in_other_ways_stay_as_they_are_written(text: str) -> None:
    after = put_server(FORM, text, PLACE, "claims", ENTRY)
    assert is_within(text, after)
    back = remove_server(FORM, after, PLACE, "claims")
    assert back == text


def test_a_server_written_inline_is_taken_out() -> None:
    text = "[mcp_servers]\nclaims = { command = 'x' } # ours\ndocs = { command = 'docs' } # theirs\n"
    assert remove_server(FORM, text, PLACE, "claims") == "[mcp_servers]\ndocs = { command = 'docs' } # theirs\n"


def test_what_a_person_added_below_it_goes_with_it() -> None:
    text = "[a]\nb = 1\n\n[mcp_servers.claims]\ncommand = 'x'\n\n[mcp_servers.claims.env]\nA = 'b'\n\n# about c\n[c]\n"
    assert remove_server(FORM, text, PLACE, "claims") == "[a]\nb = 1\n\n# about c\n[c]\n"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a = ", "not valid TOML"),
        ("a = 1\na = 2", "not valid TOML"),
        ("mcp_servers = 1", "which is not a table"),
        ("\0", "TOML"),
        ("a = " + "9" * 5_000, "digits"),
        ("a = " + "[" * 100_000, "nested too deeply"),
    ],
)
def test_what_does_not_parse_is_refused(text: str, why: str) -> None:
    with pytest.raises(UneditableTextError, match=why):
        put_server(FORM, text, PLACE, "claims", ENTRY)
