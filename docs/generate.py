"""Writes the pages that are made from the code: `python docs/generate.py`.

They are committed, so that they can be read on the repository's page and reviewed with the change that they follow from;
`tests/docs/test_pages.py` compares them.  Nothing in them depends on the version of Python.
"""

from __future__ import annotations

import argparse
import enum
import inspect
import json
import re
import textwrap
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import mcp_claims
from mcp_claims.cli.main import COMMANDS, build_parser
from mcp_claims.hosts.catalog import HOSTS, Host, UserEnvironment
from mcp_claims.hosts.entries import Launch
from mcp_claims.hosts.hook_catalog import HOOKS
from mcp_claims.hosts.hooks import JsonHooks

DOCS = Path(__file__).resolve().parent
NOTE = "<!-- Made by docs/generate.py. -->\n"
STORE = {"--dir", "--layout", "--provider", "--store"}
LANGUAGES = {"JsonText": "json", "TomlText": "toml", "YamlText": "yaml"}


def pages() -> dict[str, str]:
    """Return the text of each generated file, by its path below `docs/`."""
    made = {
        "reference/command-line.md": command_line(),
        "reference/tools.md": tools(),
        "reference/library.md": library(),
    }
    notes = tomllib.loads((DOCS / "hosts" / "notes.toml").read_text())
    for host in HOSTS.values():
        made[f"hosts/{host.name}.md"] = host_page(host, notes[host.name])
    made["llms.txt"] = llms({name: text.removeprefix(NOTE) for name, text in made.items()})
    return made


# The command line.


def command_line() -> str:
    """Return the page of all commands, from the parsers."""
    blocks = [
        NOTE + "# Command line",
        (
            "A command says yes or no by its exit code: 0 yes, 1 no, 2 wrong usage, 3 the store cannot answer. Durations are "
            "`30s`, `5m`, `1h30m`, `7d`, or a number of the option's unit. `mcp-claims COMMAND --help` shows the same in a terminal."
        ),
        table(("command", "what it does"), [(f"[`{name}`](#{name})", about) for name, (_, about) in COMMANDS.items()]),
        "## The store",
        "All commands that read or change claims have these options.",
        options([each for each in _actions("list") if set(each.option_strings) & STORE]),
    ]
    for name in COMMANDS:
        blocks += [f"## {name}", *command(name)]
    return "\n\n".join(blocks) + "\n"


def command(name: str) -> Iterator[str]:
    parser = _parser(name)
    yield parser.description or ""
    actions = [each for each in parser._actions if not isinstance(each, argparse._HelpAction)]
    words = [each for each in actions if not each.option_strings]
    yield f"```text\n{' '.join(_usage(parser, name, words))}\n```"
    if words:
        yield table(("argument", "meaning"), [(f"`{_placeholder(each)}`", _help(each)) for each in words])
    named = [each for each in actions if each.option_strings]
    if own := [each for each in named if not set(each.option_strings) & STORE]:
        yield options(own)
    if len(own) < len(named):
        yield "And those of [the store](#the-store)."
    if parser.epilog:
        yield f"```text\n{parser.epilog}\n```"


def options(actions: Sequence[argparse.Action]) -> str:
    rows = []
    for each in actions:
        value = "" if each.nargs == 0 else f" {_placeholder(each)}"
        rows.append((", ".join(f"`{flag}{value}`" for flag in each.option_strings), _help(each)))
    return table(("option", "meaning"), rows)


def _usage(parser: argparse.ArgumentParser, name: str, words: Sequence[argparse.Action]) -> Iterator[str]:
    if parser.usage:
        yield parser.usage.replace("%(prog)s", f"mcp-claims {name}")
        return
    yield f"mcp-claims {name} [options]"
    for each in words:
        several = {"+": f"{_placeholder(each)} [{_placeholder(each)} …]", "*": f"[{_placeholder(each)} …]"}
        yield several.get(str(each.nargs), f"[{_placeholder(each)}]" if each.nargs == "?" else _placeholder(each))


def _placeholder(action: argparse.Action) -> str:
    if action.metavar is not None:
        text = str(action.metavar)
    elif action.choices is not None:
        text = "|".join(map(str, action.choices))
    else:
        text = action.dest.upper()
    return f"[{text}]" if action.option_strings and action.nargs == "?" else text


def _help(action: argparse.Action) -> str:
    text = (action.help or "") % {**vars(action), "prog": "mcp-claims"}
    if re.split(r"[^\w-]", text)[0] in map(str, action.choices or ()):
        return text  # It begins with a value of the argument, which is typed as it stands here.
    return text[:1].upper() + text[1:]


def _parser(name: str) -> argparse.ArgumentParser:
    (commands,) = build_parser(name)._subparsers._group_actions  # type: ignore[union-attr]
    parser = commands.choices[name]  # type: ignore[index]
    assert isinstance(parser, argparse.ArgumentParser)
    return parser


def _actions(name: str) -> list[argparse.Action]:
    return _parser(name)._actions


# The tools.


def tools() -> str:
    """Return the page of the tools, from what the server answers to `tools/list`."""
    listed = json.loads((Path(mcp_claims.__file__).parent / "server" / "plain.json").read_text())
    found = next(each for each in _objects(listed) if isinstance(each.get("tools"), list))["tools"]
    blocks = [
        NOTE + "# Tools",
        (
            "Every result is structured, and has a text that says the same. A refusal is a normal result. An error means bad "
            'input, or a store that cannot answer; then you hold nothing new. For what is optional, `null` and `""` mean absent.'
        ),
    ]
    for tool in found:
        arguments, results = tool["inputSchema"], tool["outputSchema"]
        blocks += [f"## {tool['name']}", tool["description"]]
        if arguments["properties"]:
            blocks.append(_fields("argument", arguments, with_default=True))
        blocks.append(_fields("result", results, with_default=False))
        hints = {"readOnlyHint": "reads only", "destructiveHint": "may destroy", "idempotentHint": "may be repeated"}
        told = [f"{words}: {'yes' if tool['annotations'][name] else 'no'}" for name, words in hints.items()]
        blocks.append(f"Hints for hosts: {', '.join(told)}.")
    return "\n\n".join(blocks) + "\n"


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        for each in value.values():
            yield from _objects(each)
    elif isinstance(value, list):
        for each in value:
            yield from _objects(each)


def _fields(what: str, schema: dict[str, Any], *, with_default: bool) -> str:
    required, rows = schema.get("required", []), []
    for name, about in schema["properties"].items():
        kind = about.get("type", "any")
        if words := about.get("enum"):
            kind = " or ".join(f"`{word}`" for word in words if word is not None)
        default = about.get("default")
        given = f"{kind}, {_json(default)} unless given" if with_default and default not in (None, "") else kind
        needed = "always" if name in required else "optional" if with_default else "if there is one"
        rows.append((f"`{name}`", given, needed, about.get("description", "")))
    return table((what, "type", "required" if with_default else "present", "meaning"), rows)


def _json(value: object) -> str:
    return json.dumps(int(value) if isinstance(value, float) and value.is_integer() else value)


# The library.


def library() -> str:
    """Return the page of the package's names, from their docstrings."""
    doc = inspect.getdoc(mcp_claims) or ""
    first, _, rest = doc.partition("\n\n")
    example, _, more = textwrap.dedent(rest).partition("\n\n`open_session`")
    blocks = [NOTE + "# Library", first, "```python\n" + textwrap.dedent(example).strip() + "\n```"]
    blocks.append(f"`open_session`{more}".replace("\n", " "))
    names = [getattr(mcp_claims, name) for name in mcp_claims.__all__]
    errors = [each for each in names if inspect.isclass(each) and issubclass(each, Exception)]
    functions = [each for each in names if inspect.isfunction(each)]
    classes = [each for each in names if inspect.isclass(each) and each not in errors]
    blocks += ["## Functions", *(block for each in functions for block in _function(each, "###"))]
    blocks += ["## Classes", *(block for each in classes for block in _class(each))]
    rows = [(f"`{each.__name__}`", f"`{each.__mro__[1].__name__}`", _summary(each)) for each in errors]
    blocks += ["## Errors", table(("error", "is a", "meaning"), rows)]
    return "\n\n".join(blocks) + "\n"


def _function(function: Any, heading: str, owner: str = "") -> Iterator[str]:
    name = f"{owner}{function.__name__}"
    yield f"{heading} {name}"
    shown = [_parameter(each) for each in inspect.signature(function).parameters.values() if each.name != "self"]
    one_line = (
        f"{name}({', '.join(_with_marks(function, shown))}) -> {_type(inspect.signature(function).return_annotation)}"
    )
    yield f"```python\n{one_line}\n```"
    yield _prose(function)


def _with_marks(function: Any, shown: list[str]) -> list[str]:
    parameters = [each for each in inspect.signature(function).parameters.values() if each.name != "self"]
    marked, starred = list[str](), False
    for parameter, text in zip(parameters, shown, strict=True):
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            starred = True
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and not starred:
            marked.append("*")
            starred = True
        marked.append(text)
    return marked


def _parameter(parameter: inspect.Parameter) -> str:
    kind = parameter.kind
    stars = "*" if kind is inspect.Parameter.VAR_POSITIONAL else "**" if kind is inspect.Parameter.VAR_KEYWORD else ""
    typed = f"{stars}{parameter.name}: {_type(parameter.annotation)}"
    return typed if parameter.default is inspect.Parameter.empty else f"{typed} = {_default(parameter.default)}"


def _default(value: object) -> str:
    return value.name if isinstance(value, enum.Enum) else repr(value) if not callable(value) else "…"


def _type(annotation: Any) -> str:
    if isinstance(annotation, type):
        return annotation.__name__
    # A NamedTuple wraps what is written.
    return re.sub(r"\bmcp_claims[\w.]*\.", "", str(getattr(annotation, "__forward_arg__", annotation)))


def _class(kind: type) -> Iterator[str]:
    yield f"### {kind.__name__}"
    yield _prose(kind)
    if issubclass(kind, enum.Enum):
        yield "Values: " + ", ".join(f"`{each.name}`" for each in kind) + "."
        return
    fields = getattr(kind, "_fields", ())
    if fields:
        hints = {name: hint for base in reversed(kind.__mro__) for name, hint in inspect.get_annotations(base).items()}
        yield table(("field", "type"), [(f"`{name}`", f"`{_type(hints[name])}`") for name in fields])
    for name, member in vars(kind).items():
        function = member.__func__ if isinstance(member, classmethod | staticmethod) else member
        if not name.startswith("_") and inspect.isfunction(function) and function.__doc__:
            yield from _function(function, "####", f"{kind.__name__}.")
        elif isinstance(member, property) and member.fget and member.fget.__doc__ and not name.startswith("_"):
            yield f"#### {kind.__name__}.{name}"
            yield _prose(member.fget)


def _prose(thing: Any) -> str:
    text = thing.__doc__ or ""
    # A NamedTuple without words of its own gets some from Python, which differ between versions.
    text = "" if text.startswith(f"{getattr(thing, '__name__', '')}(") else inspect.cleandoc(text)
    return re.sub(r"\*(\w+)\*", r"`\1`", text) or "No description."


def _summary(thing: Any) -> str:
    return _prose(thing).partition("\n\n")[0].replace("\n", " ")


# The hosts.


def host_page(host: Host, notes: dict[str, Any]) -> str:
    """Return the page of *host*, from the catalog; *notes* has what a person has to know beside that."""
    launch = Launch("mcp-claims", ("serve",))
    blocks = [
        NOTE + f"# {host.title}",
        f"How {host.title} gets the server, which files that changes, and what to expect.",
    ]
    if notes.get("plugin"):
        blocks += ["## By its plugin", notes["plugin"].strip()]
    guarded = host.name in HOOKS
    lines = [f"mcp-claims install {host.name}"]
    if guarded:
        lines = [f"mcp-claims install {host.name} --guard    # with hooks: each edit claims its file"]
        lines.append(f"mcp-claims install {host.name}            # the server alone")
    lines.append(f"mcp-claims uninstall {host.name}")
    blocks += ["## By one command", "```sh\n" + "\n".join(lines) + "\n```", host.next_step]
    blocks.append(
        "`--dry-run` shows the difference and changes nothing. Every byte that is not ours stays, and a copy lies beside the file."
    )
    rows = [("servers", place) for place in _places(host.config_file)]
    if guarded:
        rows += [("hooks", place) for place in _places(lambda user: HOOKS[host.name].file(user, "claims"))]
    blocks += [
        "## Its files",
        table(("what", "where"), rows),
        f"[Its documentation]({host.documentation}) has its format. The entry, by hand:",
    ]
    entry = host.format.snippet(host.key_path, "claims", host.make_entry(launch).merged_into(None))
    blocks.append(f"```{LANGUAGES[type(host.format).__name__]}\n{entry.strip()}\n```")
    blocks.append("Write the absolute path of `mcp-claims` where it is not on the `PATH` of the host.")
    if host.permission is not None:
        blocks += ["## Unattended", _permission(host)]
    if guarded:
        blocks += ["## What the hooks see", _hooks(host.name)]
    known = HOOKS[host.name].limits if guarded else None
    if limits := [*([known] if known else []), *notes["limits"]]:
        blocks += ["## Limits", "\n".join(f"- {each}" for each in limits)]
    blocks += ["## Tried", notes["tried"].strip()]
    return "\n\n".join(blocks) + "\n"


def _places(path: Callable[[UserEnvironment], Path]) -> list[str]:
    """Return where a file is on Linux, macOS and Windows; each place once."""
    found = dict[str, list[str]]()
    for platform, name in (("linux", "Linux"), ("darwin", "macOS"), ("win32", "Windows")):
        text = str(path(UserEnvironment(Path("/~"), platform, {}))).replace("/~", "~", 1)
        found.setdefault(text.replace("~/AppData/Roaming", "%APPDATA%"), []).append(name)
    return [f"`{text}`" + (f" ({', '.join(names)})" if len(found) > 1 else "") for text, names in found.items()]


def _permission(host: Host) -> str:
    assert host.permission is not None
    told = (
        f"`mcp-claims install {host.name} --allow` lets {host.title} call the tools without asking a person; "
        "`uninstall` takes that away."
    )
    if host.permission.unattended is None:
        return f"{told} Without it, an unattended run calls them as its own settings say."
    return f"{told} Without it, pass `{host.permission.unattended.format(name='claims')}`."


def _hooks(name: str) -> str:
    hooks = HOOKS[name]
    if not isinstance(hooks, JsonHooks):
        return "Its plugin sees every call of a tool before and after it, and the ends of turns and of sub-agents."
    edits = ", ".join(f"`{tool}`" for tool in hooks.editing)
    ends = ", ".join(f"`{event}`" for event in hooks.ends)
    return f"Before an edit (`{hooks.before}`): {edits}. Ends: {ends}. [The guard](../design/guard.md) has what it claims and denies."


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for row in rows:
        cells = (cell.replace("|", "\\|") for cell in row)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


# For models.


def llms(made: Mapping[str, str]) -> str:
    """Return `llms.txt`: every page in the order of the site, with its first sentence."""
    site = tomllib.loads((DOCS / "zensical.toml").read_text())["project"]
    lines = [f"# {site['site_name']}", "", f"> {site['site_description']}"]
    for part in site["nav"]:
        ((title, found),) = part.items()
        lines += ["", f"## {title}", ""]
        for page in found if isinstance(found, list) else [found]:
            name = page if isinstance(page, str) else next(iter(page.values()))
            text = made.get(name) or (DOCS / name).read_text()
            url = site["site_url"] + re.sub(r"(index|README)?\.md$", "", name)
            url += "" if url.endswith("/") else "/"
            about = f": {sentence}" if (sentence := _first_sentence(text)) and title != "Design" else ""
            lines.append(f"- [{_title(text)}]({url}){about}")
    return "\n".join(lines) + "\n"


def _title(text: str) -> str:
    return next(line.removeprefix("# ") for line in text.splitlines() if line.startswith("# "))


def _first_sentence(text: str) -> str:
    body = text.partition("\n# ")[2] if not text.startswith("# ") else text[2:]
    words = [block for block in body.split("\n\n")[1:] if not block.startswith(("#", "```", "|", "!", "<"))]
    line = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", " ".join(words[0].split())) if words else ""
    return re.split(r"(?<=\.) ", line)[0]


def main() -> None:
    """Write every page."""
    for name, text in pages().items():
        (DOCS / name).parent.mkdir(exist_ok=True)
        (DOCS / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
