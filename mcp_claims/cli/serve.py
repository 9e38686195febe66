"""`mcp-claims serve`: start the server over stdin and stdout, or over HTTP."""

from __future__ import annotations

import argparse
import gc
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import NoReturn

from mcp_claims.cli.options import (
    HOUR,
    MINUTE,
    SESSION_VARIABLE,
    add_label,
    add_store_options,
    chosen_store,
    describe_session,
    duration,
    store_choice,
)
from mcp_claims.cli.output import write_error
from mcp_claims.errors import InvalidInputError
from mcp_claims.liveness import local_machine
from mcp_claims.model import validation
from mcp_claims.model.validation import DEFAULT_RETENTION_HOURS
from mcp_claims.server.brief_connections import BriefConnections, host_of
from mcp_claims.server.log import logger
from mcp_claims.server.pipes import HostPipes, take_over
from mcp_claims.server.quick import QuickStage
from mcp_claims.server.registry import DEFAULT_IDLE, SessionRegistry
from mcp_claims.server.stop import stop_with_host
from mcp_claims.session.identity import named_session, process_session
from mcp_claims.session.keepalive import DEFAULT_KEEP_ALIVE_LIMIT
from mcp_claims.stores.base import Store
from mcp_claims.stores.history.history import DAYS_VARIABLE, Limits

if sys.platform != "win32":
    import resource

_SWITCH_INTERVAL = 0.000_5  # s
_FILES = 4_096
_HTTP_OPTIONS = ("host", "port", "path", "token_file", "idle_minutes", "access_log", "tls_cert", "tls_key")


def configure_serve(parser: argparse.ArgumentParser) -> None:
    """Configure the parser of `serve`."""
    parser.epilog = "example: mcp-claims serve --http --port 8765"
    add_store_options(parser)
    parser.add_argument(
        "--session",
        metavar="NAME",
        help="a session that outlives the process, one NAME for each agent: for hosts that start a server for each call, "
        f"as LangChain's MultiServerMCPClient does (else {SESSION_VARIABLE})",
    )
    add_label(parser)
    parser.add_argument(
        "--keep-alive-hours",
        type=duration(HOUR),
        default=DEFAULT_KEEP_ALIVE_LIMIT / timedelta(hours=1),
        metavar="H",
        help="how long try_claim(keep_alive=true) renews a claim at most, in hours or as 90m, 2d (%(default)g)",
    )
    parser.add_argument(
        "--retention-hours",
        type=duration(HOUR),
        default=DEFAULT_RETENTION_HOURS,
        metavar="H",
        help="how long an outcome given to release is kept, in hours or as 90m, 2d (%(default)g)",
    )
    parser.add_argument(
        "--history-days",
        metavar="N",
        help=f"how many days the history of claims is kept, 0 for none (else {DAYS_VARIABLE}, else {Limits().days})",
    )
    parser.add_argument(
        "--no-quick",
        dest="quick",
        action="store_false",
        help="let the MCP SDK answer every message, for 0.6 s and 40 MiB a session: to find out where a fault comes from",
    )
    http = parser.add_argument_group("over HTTP")
    http.add_argument("--http", action="store_true", help="serve Streamable HTTP instead of stdin and stdout")
    http.add_argument("--host", help="address to listen on (127.0.0.1); any but a loopback address needs a token")
    http.add_argument("--port", type=int, help="port to listen on, 0 for a free one (8765)")
    http.add_argument("--path", help="path of the endpoint (/mcp)")
    http.add_argument("--token-file", metavar="PATH", help="bearer tokens, one a line (or one in MCP_CLAIMS_TOKEN)")
    http.add_argument(
        "--idle-minutes", type=duration(MINUTE), metavar="M", help="when a session without requests ends (30)"
    )
    http.add_argument("--access-log", action="store_true", default=None, help="write each request to stderr")
    http.add_argument("--tls-cert", metavar="PATH", help="serve https with this certificate chain, in PEM")
    http.add_argument("--tls-key", metavar="PATH", help="its key, if that is in a file of its own")
    parser.set_defaults(run=_serve)


def _serve(options: argparse.Namespace) -> int:
    # With Python's 5 ms a call waits that long after each of its some ten system calls while another thread scans.
    sys.setswitchinterval(_SWITCH_INTERVAL)
    _allow_files()
    logger.configures_logging = True
    keep_alive_limit = timedelta(hours=hours("--keep-alive-hours", options.keep_alive_hours))
    validation.parse_retention(options.retention_hours)
    if options.history_days is not None:
        os.environ[DAYS_VARIABLE] = options.history_days
    store = chosen_store(options)
    if options.http:
        if options.session is not None:
            raise InvalidInputError(
                "--session",
                "is for stdin and stdout; over HTTP clients send the header Mcp-Claims-Session, or a handle",
            )
        if options.label is not None:
            raise InvalidInputError(
                "--label", "is for stdin and stdout; over HTTP a client labels itself by open_session"
            )
        if SESSION_VARIABLE in os.environ:
            logger.warning("%s is for stdin and stdout; it has no effect over HTTP", SESSION_VARIABLE)
        return _serve_http(options, store, keep_alive_limit)
    for name in _HTTP_OPTIONS:
        if getattr(options, name) is not None:
            raise InvalidInputError(f"--{name.replace('_', '-')}", "needs --http")
    return _serve_stdio(options, store, keep_alive_limit)


def _allow_files() -> None:
    # 512 waits take 2,560 descriptors; systems give a process 256 to 1,024 unless it asks for more.
    if sys.platform != "win32":
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            with suppress(OSError, ValueError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _serve_stdio(options: argparse.Namespace, store: Store, keep_alive_limit: timedelta) -> int:
    name = options.session if options.session is not None else os.environ.get(SESSION_VARIABLE)
    own = process_session(store) if name is None else named_session(store, name)
    describe_session(own, options)
    if sys.stdin.isatty():
        write_error(
            "this speaks MCP with one client over stdin and stdout, and agents' hosts start it themselves: "
            "`mcp-claims install HOST` makes them. Ctrl-D ends it; `mcp-claims --help` has the commands for people."
        )
    # Until the server has handlers of its own, a signal just ends the process: nothing is claimed yet.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    registry = SessionRegistry(
        store,
        own=own,
        lasting=name is not None,
        keep_alive_limit=keep_alive_limit,
        retention_hours=options.retention_hours,
        brief=BriefConnections(store_choice(options)),
        host=host_of(local_machine()),
    )
    stop_with_host()
    pipes = take_over()
    if pipes is not None and options.quick:
        stage = QuickStage(registry, pipes)
        stage.run(_import_stdio)(registry, pipes, stage)
    _import_stdio()(registry, pipes, None)


def _import_stdio() -> Callable[[SessionRegistry, HostPipes | None, QuickStage | None], NoReturn]:
    with _importing_server():
        from mcp_claims.server.stdio import serve_stdio
    return serve_stdio


def _serve_http(options: argparse.Namespace, store: Store, keep_alive_limit: timedelta) -> int:
    idle = DEFAULT_IDLE if options.idle_minutes is None else 60 * hours("--idle-minutes", options.idle_minutes)
    with _importing_server():
        from mcp_claims.server.auth import read_tokens
        from mcp_claims.server.http import HttpSettings, serve_http
        from mcp_claims.server.metrics import Metrics, metered
        from mcp_claims.server.probes import ACCESS_LOG_VARIABLE

    metrics, choice = Metrics(), store_choice(options)
    store = metered(store, metrics)
    settings = HttpSettings(
        host=options.host or "127.0.0.1",
        port=8765 if options.port is None else options.port,
        path=options.path or "/mcp",
        tokens=read_tokens(options.token_file),
        idle=idle,
        where=choice.url or choice.directory,
        metrics=metrics,
        access_log=bool(options.access_log or os.environ.get(ACCESS_LOG_VARIABLE)),
        tls_cert=options.tls_cert,
        tls_key=options.tls_key,
    )
    return serve_http(
        lambda: SessionRegistry(
            store,
            own=None,
            idle=idle,
            keep_alive_limit=keep_alive_limit,
            retention_hours=options.retention_hours,
            brief=BriefConnections(choice),
            metrics=metrics,
        ),
        settings,
    )


@contextmanager
def _importing_server() -> Iterator[None]:
    """Import a server without collecting garbage.

    The import makes some 300,000 objects that live as long as the process; to search them for garbage again and again
    takes a fifth of its CPU time.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def hours(option: str, value: float) -> float:
    """Return *value*, a time in the unit of *option*, if it is in range; raise `InvalidInputError` if not."""
    if not 0 < value <= 10_000:
        raise InvalidInputError(option, "must be a number above 0, at most 10,000")
    return value
