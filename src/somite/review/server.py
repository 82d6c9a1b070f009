"""The socket below the review page: this machine only, GET and POST only, small requests only."""

from __future__ import annotations

import secrets
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from somite.errors import ConfigError, Problem
from somite.review import application, guard
from somite.review.application import Application
from somite.review.guard import Reply, Request

ADDRESS = "127.0.0.1"


class Server(ThreadingHTTPServer):
    """A server for one rater."""

    daemon_threads = True
    application: Application

    @property
    def url(self) -> str:
        """The address to open, with the token."""
        return f"http://{ADDRESS}:{self.server_port}/?token={self.application.token}"

    def handle_error(self, request: object, client_address: object) -> None:
        """A browser that hangs up is no error."""


class Handler(BaseHTTPRequestHandler):
    """Reads a request, has it answered, writes the reply."""

    protocol_version = "HTTP/1.1"
    server_version = "somite"
    sys_version = ""
    timeout = 60
    disable_nagle_algorithm = True
    server: Server

    def do_GET(self) -> None:  # noqa: D102
        self._answer(b"")

    def do_POST(self) -> None:  # noqa: D102
        length = self.headers.get("Content-Length", "")
        if "Transfer-Encoding" in self.headers or not (length.isascii() and length.isdigit()):
            self._refuse(411, "the length of the request is not told")
        elif int(length) > guard.LARGEST_POST:
            self._refuse(413, "the request is too large")
        else:
            self._answer(self.rfile.read(int(length)))

    def _no_method(self) -> None:
        self._refuse(405, "only GET and POST are answered")

    do_HEAD = do_PUT = do_DELETE = do_OPTIONS = do_PATCH = do_TRACE = do_CONNECT = _no_method

    def _refuse(self, status: int, words: str) -> None:
        """Refuse without reading on: what else was sent is no request."""
        self.close_connection = True
        told = f"{words}\n".encode()
        self._write(Reply(status, "text/plain; charset=utf-8", told, {"Connection": "close"}))

    def _answer(self, body: bytes) -> None:
        headers = {name.lower(): tuple(self.headers.get_all(name, ())) for name in self.headers}
        asked = Request(self.command, self.path, headers, body)
        self._write(self.server.application.answer(asked))

    def _write(self, reply: Reply) -> None:
        self.send_response(reply.status)
        shown = {"Content-Type": reply.kind, "Content-Length": str(len(reply.body))}
        for name, value in (guard.ALWAYS | shown | dict(reply.headers)).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(reply.body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: addresses hold the token."""


def open_server(out_dir: Path, rater: str, port: int = 0) -> Server:
    """A server that listens; `serve_forever` makes it answer.

    Args:
        out_dir: the output of a run.
        rater: name of who looks.
        port: 0: one that is free.

    Raises:
        ConfigError: `REVIEW_PORT`, the port is taken.
        DatasetError: as `application.check`.
    """
    name = application.check(out_dir, rater)
    try:
        server = Server((ADDRESS, port), Handler)
    except (OSError, OverflowError) as error:
        raise ConfigError(
            Problem(
                "REVIEW_PORT",
                "the review page cannot be served at this port",
                where=f"--port {port}",
                found=str(error),
                expected="a free port, 1024 to 65535; 0: any that is free",
                do="leave --port away",
            )
        ) from error
    token = secrets.token_urlsafe(32)
    server.application = Application(out_dir.resolve(), name, token, server.server_port)
    return server
