"""Faults in what `install` and `doctor --hosts` do with the files of hosts."""

from __future__ import annotations

from tests.plants.plant import Plant

FILES = "mcp_claims/hosts/files.py"
JSON = "mcp_claims/hosts/json_text.py"
INSTALL = "mcp_claims/cli/install.py"

HOSTS = [
    Plant(
        "an entry after a comment at the end of a line is put before it",
        "H1",
        JSON,
        "tail = len(text[:close].rstrip())",
        "tail = members[-1].end if members else start + 1",
    ),
    Plant(
        "comments before the next table go with ours",
        "H1",
        "mcp_claims/hosts/toml_text.py",
        "while end > first + 1 and re.match(r",
        "while False and re.match(r",
    ),
    Plant("the byte order mark is lost", "H1", FILES, "return (mark + text).encode()", "return text.encode()"),
    Plant(
        "comments are taken where the host refuses them",
        "H2",
        "mcp_claims/hosts/table.py",
        "STRICT, COMMENTED, LENIENT = JsonText(),",
        "STRICT, COMMENTED, LENIENT = JsonText(comments=True),",
    ),
    Plant(
        "a key that is there twice is taken",
        "H2",
        JSON,
        "if len(found) < len(pairs):",
        "if False:",
    ),
    Plant(
        "what an edit made is not compared",
        "H2",
        "mcp_claims/hosts/formats.py",
        '    if not same:\n        raise Unfit("is written in a way that cannot be edited safely")',
        "    del same",
    ),
    Plant(
        "a link is replaced by a file",
        "H3",
        FILES,
        "return Content(real, real.read_bytes())",
        "return Content(path, real.read_bytes())",
    ),
    Plant("what the host wrote meanwhile is written over", "H3", FILES, "if read(path).data != old:", "if False:"),
    Plant("a file that is read-only is replaced", "H3", FILES, "if not mode & 0o222:", "if False:"),
    Plant(
        "what was half written stays",
        "H3",
        FILES,
        "            os.unlink(new)\n        raise",
        "            pass\n        raise",
    ),
    Plant(
        "what others added to the entry is lost",
        "H4",
        "mcp_claims/hosts/entries.py",
        "{**self.defaults, **found, **self.ours}",
        "{**self.defaults, **self.ours}",
    ),
    Plant(
        "the entry is written again though it is there",
        "H4",
        "mcp_claims/hosts/installing.py",
        "return content.data if entry == found else _edited(host, content, name, entry)",
        "return _edited(host, content, name, entry) + b' '",
    ),
    Plant(
        "the copy is not looked at",
        "H5",
        "mcp_claims/hosts/installing.py",
        "for before in dict.fromkeys((copy, None)):",
        "for before in ():",
    ),
    Plant(
        "the copy is put back whatever has changed since",
        "H5",
        "mcp_claims/hosts/installing.py",
        "if _put(host, Content(content.path, before), name, entry) == content.data:",
        "if before is not None:",
    ),
    Plant(
        "a folder of our name in the project is run",
        "H6",
        INSTALL,
        '("-P", "-m", "mcp_claims", "serve",',
        '("-m", "mcp_claims", "serve",',
    ),
    Plant(
        "the directory that is chosen here is not written down",
        "H6",
        INSTALL,
        "or DIRECTORY_VARIABLE in environment or",
        "or",
    ),
    Plant(
        "one identity is given to all hosts",
        "H6",
        INSTALL,
        '"session": None,',
        '"session": "MCP_CLAIMS_SESSION",',
    ),
    Plant(
        "what a host's command did is not looked at",
        "H7",
        "mcp_claims/hosts/official.py",
        "if started is None or (started.command, started.arguments) != (launch.command, launch.arguments):",
        "if False:",
    ),
    Plant(
        "a host's command is run though the name is taken",
        "H7",
        "mcp_claims/hosts/official.py",
        "    if name in before:\n        return\n",
        "",
    ),
    Plant("the guard is put in unasked", "H8", INSTALL, "if guard is not None:", "if True:"),
    Plant(
        "hooks look at other claims than the server",
        "H8",
        INSTALL,
        '("-P", "-m", "mcp_claims", "hook", *program, *store)',
        '("-P", "-m", "mcp_claims", "hook", *program)',
    ),
    Plant(
        "what a server has started stays",
        "H9",
        "mcp_claims/diagnosis/hosts.py",
        "os.killpg(server.pid, signal.SIGKILL)",
        "server.kill()",
    ),
    Plant(
        "hosts with claims of their own are not told of",
        "H9",
        "mcp_claims/diagnosis/hosts.py",
        "if len(set(directories.values())) > 1:",
        "if False:",
    ),
]
