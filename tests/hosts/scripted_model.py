"""A model that follows a script, behind the HTTP APIs that hosts call.

- Anthropic Messages, https://docs.claude.com/en/api/messages-streaming: Claude Code, opencode, Qwen Code, Copilot CLI
- OpenAI Responses, https://platform.openai.com/docs/api-reference/responses-streaming: Codex
- Gemini, https://ai.google.dev/api/generate-content: Gemini CLI
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from typing import Any, Protocol

Json = dict[str, Any]


@dataclass(frozen=True)
class Say:
    """The model answers with text, which ends its turn."""

    text: str


@dataclass(frozen=True)
class Use:
    """The model calls a tool.  *tool* is its full name, or its name on its server: `try_claim`."""

    tool: str
    arguments: Mapping[str, object]


Step = Say | Use
Script = Callable[[Sequence[str]], Step]
"""Takes the results of the tools that were called so far, as the model sees them; returns the next step."""

Scripts = Mapping[str, Script]
"""Scripts of sub-agents, by a text in the prompt with which they are started."""


def use(tool: str, **arguments: object) -> Use:
    return Use(tool, arguments)


@dataclass(frozen=True)
class Turn:
    """One request of the host, and the step that answered it."""

    tools: Sequence[str]  #: The names of the tools that the host offered.
    results: Sequence[str]  #: The results of the tools that were called so far.
    step: Step
    request: Json


@dataclass
class ScriptedModel:
    """A running model."""

    url: str
    turns: list[Turn] = field(default_factory=list)
    failure: BaseException | None = None
    """What the script raised, such as a failed assertion."""


@contextmanager
def scripted_model(script: Script, sub_agents: Scripts | None = None) -> Iterator[ScriptedModel]:
    """Serve a model that follows *script* on a free port, and in *sub_agents* the script of each."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle(self) -> None:
            with suppress(ConnectionError):  # The host was killed.
                super().handle()

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["content-length"])))
            api = next((api for api in _APIS if api.answers(self.path)), None)
            if api is None:
                self._answer("application/json", b"{}")
                return
            tools, results = api.read(request)
            # A request without tools asks for something else than the next step, such as a title of the session.
            step = self._next_step(api, request, tools, results) if tools else Say("ok")
            self._answer("text/event-stream", api.write(step))

        def do_GET(self) -> None:
            self._answer("application/json", b"{}")

        def do_HEAD(self) -> None:
            self._answer("application/json", b"{}")

        def log_message(self, *arguments: object) -> None:
            """Log nothing."""

        def _next_step(self, api: _Api, request: Json, tools: Sequence[str], results: Sequence[str]) -> Step:
            try:
                prompt = api.prompt(request) if sub_agents else ""
                own = next((each for text, each in (sub_agents or {}).items() if text in prompt), script)
                step = own(results)
                if isinstance(step, Use):
                    step = Use(_full_name(step.tool, tools), step.arguments)
            except BaseException as failure:  # noqa: BLE001 - An assertion must reach the test, and the host must end.
                model.failure = failure
                step = Say(f"the script failed: {failure!r}")
            model.turns.append(Turn(tools, results, step, request))
            return step

        def _answer(self, content_type: str, body: bytes) -> None:
            self.send_response(200)
            self.send_header("content-type", content_type)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        model = ScriptedModel(f"http://127.0.0.1:{server.server_port}")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield model
        finally:
            server.shutdown()


def _full_name(tool: str, offered: Sequence[str]) -> str:
    """Return the name by which the host offers *tool*: hosts put the name of the server before it."""
    names = [tool] if tool in offered else [name for name in offered if re.search(rf"[-_.]{re.escape(tool)}$", name)]
    assert len(names) == 1, f"{tool} is not one of the tools: {', '.join(offered)}"
    return names[0]


class _Api(Protocol):
    def answers(self, path: str) -> bool:
        """Return whether requests to *path* ask the model for its next step."""
        ...

    def read(self, request: Json) -> tuple[list[str], list[str]]:
        """Return the names of the tools that are offered, and the results of those that were called."""
        ...

    def prompt(self, request: Json) -> str:
        """Return the first message of the user, with which the session or the sub-agent was started."""
        ...

    def write(self, step: Step) -> bytes:
        """Return the stream of events for *step*."""
        ...


_IDS = count(1)


def _events(events: Sequence[Json]) -> bytes:
    return "".join(
        (f"event: {event['type']}\n" if "type" in event else "") + f"data: {json.dumps(event)}\n\n" for event in events
    ).encode()


def _text(content: str | Sequence[Json]) -> str:
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


class _Messages:
    """Anthropic Messages."""

    def answers(self, path: str) -> bool:
        return path.partition("?")[0].endswith("/messages")

    def read(self, request: Json) -> tuple[list[str], list[str]]:
        blocks = [
            block
            for message in request["messages"]
            if not isinstance(message["content"], str)
            for block in message["content"]
        ]
        results = [_text(block["content"]) for block in blocks if block["type"] == "tool_result"]
        # With a tool that has to be used, Qwen Code asks for something else, such as a suggestion of the next prompt.
        forced = request.get("tool_choice", {}).get("type") in ("any", "tool")
        return [] if forced else [tool["name"] for tool in request.get("tools", [])], results

    def prompt(self, request: Json) -> str:
        return _text(next(message["content"] for message in request["messages"] if message["role"] == "user"))

    def write(self, step: Step) -> bytes:
        if isinstance(step, Say):
            block: Json = {"type": "text", "text": ""}
            delta = {"type": "text_delta", "text": step.text}
        else:
            block = {"type": "tool_use", "id": f"toolu_{next(_IDS)}", "name": step.tool, "input": {}}
            delta = {"type": "input_json_delta", "partial_json": json.dumps(step.arguments)}
        end = {"stop_reason": "end_turn" if isinstance(step, Say) else "tool_use", "stop_sequence": None}
        usage = {"input_tokens": 1, "output_tokens": 1}
        message = {
            "id": f"msg_{next(_IDS)}",
            "type": "message",
            "role": "assistant",
            "model": "scripted",
            "content": [],
        }
        nothing = {"stop_reason": None, "stop_sequence": None}
        return _events(
            [
                {"type": "message_start", "message": {**message, **nothing, "usage": usage}},
                {"type": "content_block_start", "index": 0, "content_block": block},
                {"type": "content_block_delta", "index": 0, "delta": delta},
                {"type": "content_block_stop", "index": 0},
                {"type": "message_delta", "delta": end, "usage": usage},
                {"type": "message_stop"},
            ]
        )


class _Responses:
    """OpenAI Responses.  The tools of a namespace are named `NAMESPACE.TOOL` here."""

    def answers(self, path: str) -> bool:
        return path.endswith("/responses")

    def read(self, request: Json) -> tuple[list[str], list[str]]:
        tools: list[str] = []
        for tool in request["tools"]:
            if tool["type"] == "namespace":
                tools += [f"{tool['name']}.{member['name']}" for member in tool["tools"]]
            elif tool["type"] == "function":
                tools.append(tool["name"])
        return tools, [_text(item["output"]) for item in request["input"] if item["type"] == "function_call_output"]

    def prompt(self, request: Json) -> str:
        return "".join(_text(item["content"]) for item in request["input"] if item.get("role") == "user")

    def write(self, step: Step) -> bytes:
        if isinstance(step, Say):
            content = [{"type": "output_text", "text": step.text, "annotations": []}]
            item: Json = {"type": "message", "id": f"msg_{next(_IDS)}", "role": "assistant", "content": content}
        else:
            namespace, _, name = step.tool.rpartition(".")
            call = {"call_id": f"call_{next(_IDS)}", "name": name, "arguments": json.dumps(step.arguments)}
            item = {"type": "function_call", "id": f"fc_{next(_IDS)}", **call}
            if namespace:
                item["namespace"] = namespace
        usage = {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2}
        response = {"id": f"resp_{next(_IDS)}", "usage": usage}
        return _events(
            [
                {"type": "response.created", "response": {"id": response["id"]}},
                {"type": "response.output_item.done", "output_index": 0, "item": item},
                {"type": "response.completed", "response": response},
            ]
        )


class _Gemini:
    """Gemini, streamed."""

    def answers(self, path: str) -> bool:
        return ":streamGenerateContent" in path

    def read(self, request: Json) -> tuple[list[str], list[str]]:
        tools = [each["name"] for tool in request.get("tools", []) for each in tool.get("functionDeclarations", [])]
        parts = [part for content in request["contents"] for part in content["parts"]]
        responses = [part["functionResponse"]["response"] for part in parts if "functionResponse" in part]
        return tools, [response.get("output") or json.dumps(response) for response in responses]

    def prompt(self, request: Json) -> str:
        return json.dumps(request["contents"][0])

    def write(self, step: Step) -> bytes:
        if isinstance(step, Say):
            part: Json = {"text": step.text}
        else:
            part = {"functionCall": {"id": f"call_{next(_IDS)}", "name": step.tool, "args": dict(step.arguments)}}
        candidate = {"content": {"role": "model", "parts": [part]}, "finishReason": "STOP", "index": 0}
        usage = {"promptTokenCount": 1, "candidatesTokenCount": 1, "totalTokenCount": 2}
        return _events([{"candidates": [candidate], "usageMetadata": usage}])


_APIS: Sequence[_Api] = (_Messages(), _Responses(), _Gemini())
