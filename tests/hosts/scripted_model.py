"""A model that follows a script, behind the endpoint that Claude Code calls: POST /v1/messages, answered as a stream.

https://docs.claude.com/en/api/messages-streaming has the events.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from typing import Any

Block = dict[str, Any]
Script = Callable[[list[Block]], Block]
"""Takes the results of the tools that were called so far, returns what the model says next."""


_NUMBERS = count(1)


def say(text: str) -> Block:
    return {"type": "text", "text": text}


def use(tool: str, **arguments: object) -> Block:
    return {"type": "tool_use", "id": f"toolu_{next(_NUMBERS)}", "name": tool, "input": arguments}


@contextmanager
def scripted_model(script: Script) -> Iterator[str]:
    """Serve the model on a free port; yields its URL."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
            blocks = [block for message in asked["messages"] for block in _blocks(message["content"])]
            results = [block for block in blocks if block.get("type") == "tool_result"]
            # What has no tools is something else that the host asks a model for, such as a title.
            self._answer("text/event-stream", _stream(script(results) if asked.get("tools") else say("ok")))

        def do_GET(self) -> None:
            self._answer("application/json", b"{}")

        do_HEAD = do_GET

        def log_message(self, format: str, *arguments: object) -> None:
            """Keep what is served out of the tests' output."""

        def _answer(self, kind: str, body: bytes) -> None:
            self.send_response(200)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


def _blocks(content: str | list[Block]) -> list[Block]:
    return [] if isinstance(content, str) else content


def _stream(block: Block) -> bytes:
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "scripted", "content": []}
    usage = {"input_tokens": 1, "output_tokens": 1}
    if block["type"] == "text":
        started, delta = {**block, "text": ""}, {"type": "text_delta", "text": block["text"]}
        stop = "end_turn"
    else:
        started = {**block, "input": {}}
        delta = {"type": "input_json_delta", "partial_json": json.dumps(block["input"])}
        stop = "tool_use"
    events: list[Block] = [
        {"type": "message_start", "message": {**message, "stop_reason": None, "stop_sequence": None, "usage": usage}},
        {"type": "content_block_start", "index": 0, "content_block": started},
        {"type": "content_block_delta", "index": 0, "delta": delta},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": stop, "stop_sequence": None}, "usage": usage},
        {"type": "message_stop"},
    ]
    return "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events).encode()
