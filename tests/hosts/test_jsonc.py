"""JSON and JSON with comments: what is not ours keeps every byte, whatever the layout."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mcp_claims.hosts.errors import UneditableTextError
from mcp_claims.hosts.format import put_server, remove_server
from mcp_claims.hosts.jsonc import JsonText
from tests.hosts.texts import ENTRY, is_within, json_files, json_values

STRICT, COMMENTED, LENIENT = JsonText(), JsonText(comments=True), JsonText(comments=True, trailing_commas=True)
PLACE = ("mcpServers",)
ALL = st.sampled_from([STRICT, COMMENTED, LENIENT]).flatmap(lambda form: st.tuples(st.just(form), json_files(form)))


@pytest.mark.rule("H1")
@settings(deadline=None)
@given(ALL)
@example((LENIENT, '{"mcpServers": {"a": {}, // one\n}}'))
@example((LENIENT, '{"mcpServers": {"a": {} // one\n}}'))
def test_a_server_is_put_into_any_file_and_all_else_stays_to_the_byte(made: tuple[JsonText, str]) -> None:
    form, text = made
    after = put_server(form, text, PLACE, "claims", ENTRY)
    assert form.servers(form.parse(after), PLACE)["claims"] == ENTRY
    assert is_within(text, after)


@settings(deadline=None)
@given(ALL)
@example((LENIENT, '{"mcpServers": {"a": {}, // one\n}}'))
@example((LENIENT, '{"mcpServers": {"a": {} // one\n}}'))
@example((STRICT, '{"mcpServers":{"a":{}}}'))
def test_what_was_put_in_beside_others_goes_out_again_to_the_byte(made: tuple[JsonText, str]) -> None:
    form, text = made
    after = put_server(form, text, PLACE, "claims", ENTRY)
    back = remove_server(form, after, PLACE, "claims")
    assert is_within(back, after)
    if form.servers(form.parse(text), PLACE):
        assert back == text


@settings(deadline=None)
@given(ALL, st.data())
def test_any_server_can_be_taken_out_wherever_it_stands(made: tuple[JsonText, str], data: st.DataObject) -> None:
    form, text = made
    servers = form.servers(form.parse(text), PLACE)
    if servers:
        after = remove_server(form, text, PLACE, data.draw(st.sampled_from(sorted(servers))))
        assert is_within(after, text)


@settings(deadline=None)
@given(ALL)
def test_a_server_is_replaced_in_its_place(made: tuple[JsonText, str]) -> None:
    form, text = made
    once = put_server(form, text, PLACE, "claims", {"command": "old"})
    after = put_server(form, once, PLACE, "claims", ENTRY)
    assert form.servers(form.parse(after), PLACE)["claims"] == ENTRY


@pytest.mark.rule("H1")
@settings(deadline=None)
@given(ALL, st.data())
def test_of_an_entry_that_is_there_all_comments_and_the_order_stay(
    made: tuple[JsonText, str], data: st.DataObject
) -> None:
    form, text = made
    servers = form.servers(form.parse(text), PLACE)
    if servers:
        name = data.draw(st.sampled_from(sorted(servers)))
        kept = {
            key: old if isinstance(old, (dict, list)) else data.draw(json_values(0))
            for key, old in servers[name].items()
        }
        after = put_server(form, text, PLACE, name, {**kept, **ENTRY})
        assert list(form.servers(form.parse(after), PLACE)[name])[: len(kept)] == list(kept)
        for comment in ("// c", "// }", "/* c, } */", "/* a"):
            assert after.count(comment) >= text.count(comment)


ARGUMENTS = """{
  "mcpServers": {
    "claims": {
      // which one
      "args": [
        "-P", // no folder of the project
        "-m", "mcp_claims",
        // serve it
        "serve", /* no more */
      ], "command": "/gone/python", // gone
      "env": {"A": "b"} // mine
    },
  }
}
"""


@pytest.mark.rule("H1")
@pytest.mark.parametrize(
    ("arguments", "changes"),
    [
        pytest.param(["-P", "-m", "mcp_claims", "serve"], {}, id="the same"),
        pytest.param(["-I", "-m", "mcp_claims", "serve"], {'"-P"': '"-I"'}, id="another"),
        pytest.param(
            ["-P", "-m", "mcp_claims", "serve", "--dir", "/x"],
            {'"serve", /* no more */': '"serve", /* no more */\n        "--dir",\n        "/x",'},
            id="more at the end",
        ),
        pytest.param(["-P", "-I", "-m", "mcp_claims", "serve"], {'"-m"': '"-I",\n        "-m"'}, id="more in between"),
        pytest.param(["mcp_claims", "serve"], {'        "-P", //': "        //", '"-m", ': ""}, id="less"),
        pytest.param(["-P", "-m", "mcp_claims"], {'        "serve", /*': "        /*"}, id="less at the end"),
    ],
)
def test_of_a_list_only_what_differs_is_replaced(arguments: list[str], changes: dict[str, str]) -> None:
    entry = {"args": arguments, "command": "/python", "env": {"A": "b"}}
    expected = ARGUMENTS.replace("/gone/python", "/python")
    for old, new in changes.items():
        expected = expected.replace(old, new)
    assert put_server(LENIENT, ARGUMENTS, PLACE, "claims", entry) == expected


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param("", '{\n  "s": {\n    "claims": {\n      "command": "x"\n    }\n  }\n}\n', id="empty"),
        pytest.param(
            '{\n    "s": {\n        "a": {}\n    }\n}\n',
            '{\n    "s": {\n        "a": {},\n        "claims": {\n            "command": "x"\n        }\n    }\n}\n',
            id="indented by four",
        ),
        pytest.param(
            '{\n\t"s": {}\n}',
            '{\n\t"s": {\n\t\t"claims": {\n\t\t\t"command": "x"\n\t\t}\n\t}\n}',
            id="indented by tabs, no servers",
        ),
        pytest.param('{"s":{"a":{}}}', '{"s":{"a":{}, "claims": {"command": "x"}}}', id="in one line"),
        pytest.param(
            '{\n  "s": {\n    "a": {}, // ours\n    // the end\n  },\n}',
            '{\n  "s": {\n    "a": {}, // ours\n    // the end\n    "claims": {\n      "command": "x"\n    },\n  },\n}',
            id="with comments and trailing commas",
        ),
        pytest.param(
            "// nothing yet",
            '// nothing yet\n{\n  "s": {\n    "claims": {\n      "command": "x"\n    }\n  }\n}\n',
            id="a comment",
        ),
    ],
)
def test_it_looks_as_the_rest_of_the_file_does(before: str, after: str) -> None:
    assert put_server(LENIENT, before, ("s",), "claims", {"command": "x"}) == after


@pytest.mark.rule("H2")
@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "line 1"),
        ('{"a": 1}}', "not valid JSON"),
        ("[]", "not a JSON object"),
        ('{"a": NaN}', "NaN"),
        ('{"a": 1, "a": 2}', "twice"),
        ('{"mcpServers": []}', "which is not an object"),
        ("{'a': 1}", "not valid JSON"),
        ('{"a": "x\ny"}', "not valid JSON"),
        ("/* open", "not valid JSON"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a": %s}' % ("9" * 5_000), "digits"),
        ("\0", "not valid JSON"),
    ],
)
def test_what_the_host_cannot_read_or_may_read_otherwise_is_refused(text: str, why: str) -> None:
    with pytest.raises(UneditableTextError, match=why):
        put_server(LENIENT, text, PLACE, "claims", ENTRY)


@pytest.mark.parametrize("text", ['{"a": 1, // c\n "b": 2}', '{"a": 1,}', '/* c */ {"a": 1}'])
def test_comments_are_refused_where_the_host_refuses_them(text: str) -> None:
    with pytest.raises(UneditableTextError, match="not valid JSON"):
        put_server(STRICT, text, PLACE, "claims", ENTRY)


@pytest.mark.rule("H2")
def test_trailing_commas_are_refused_where_only_comments_are_taken() -> None:
    with pytest.raises(UneditableTextError, match="not valid JSON"):
        put_server(COMMENTED, '{"a": 1, /* c */}', PLACE, "claims", ENTRY)
