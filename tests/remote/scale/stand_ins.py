"""Services of others, on this machine: two S3 servers, a proxy that fails, and the Hub's redirects."""

from __future__ import annotations

import http.client
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from moto.server import ThreadedMotoServer

SECRET = "SECRETACCESSKEY"
KEY_ID = "KEYIDOFTHETEST"


def s3_environment(endpoint: str) -> dict[str, str]:
    """The environment in which obstore talks to a server of these tests."""
    return {
        "AWS_ACCESS_KEY_ID": KEY_ID,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": endpoint,
    }


_buckets: dict[int, Path] = {}
"""Where the buckets of a server are directories, by its port."""


@contextmanager
def moto_server() -> Iterator[int]:
    """Run moto, and yield its port."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        yield server.get_host_and_port()[1]
    finally:
        server.stop()


@contextmanager
def s3s_server() -> Iterator[int]:
    """Run the server of the crate s3s-fs, which shares no code with moto, and yield its port."""
    program = Path(sys.prefix).parent / "bin" / "s3s-fs"
    with socket.socket() as free, tempfile.TemporaryDirectory() as buckets:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        secrets = ["--access-key", KEY_ID, "--secret-key", SECRET]
        command = [str(program), "--host", "127.0.0.1", "--port", str(port), *secrets, buckets]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
            try:
                while True:
                    with suppress(ConnectionRefusedError):
                        request(port, "GET", "/", {}, b"")
                        break
                    assert running.poll() is None
                _buckets[port] = Path(buckets)
                yield port
            finally:
                running.kill()


SERVERS = {"moto": moto_server, "s3s-fs": s3s_server}


def make_bucket(port: int, name: str) -> None:
    """Make a bucket."""
    if port in _buckets:
        (_buckets[port] / name).mkdir()
        return
    answer = request(port, "PUT", f"/{name}", {}, b"")
    assert answer[0] == 200, answer


def request(
    port: int, method: str, path: str, headers: dict[str, str], body: bytes
) -> tuple[int, list[tuple[str, str]], bytes]:
    """Make a request of a server on this machine."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.getheaders(), answer.read()
    finally:
        connection.close()


class Seen:
    """The requests that a server saw.

    Attributes:
        lines: method and path of each.
        headers: the headers of each.
    """

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.headers: list[dict[str, str]] = []

    def note(self, handler: BaseHTTPRequestHandler) -> None:
        self.lines.append(f"{handler.command} {handler.path}")
        self.headers.append({name.lower(): value for name, value in handler.headers.items()})


Answer = Callable[["Handler", int, list[tuple[str, str]], bytes], bool]
"""Sends an answer in place of the right one, and returns whether it did."""


class Handler(BaseHTTPRequestHandler):
    """Hands requests on to another server."""

    protocol_version = "HTTP/1.1"
    target: int
    seen: Seen
    before: Callable[[Handler], bool]
    after: Answer

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def _handle(self) -> None:
        self.seen.note(self)
        length = int(self.headers.get("content-length") or 0)
        body = self.rfile.read(length)
        if type(self).before(self):
            return
        headers = {name: value for name, value in self.headers.items() if name.lower() != "connection"}
        status, found, content = request(self.target, self.command, self.path, headers, body)
        if not type(self).after(self, status, found, content):
            self.answer(status, found, content)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _handle  # noqa: N815

    def answer(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
        """Send an answer."""
        self.send_response(status)
        left_out = ("transfer-encoding", "connection", "date", "server", "content-length")
        for name, value in headers:
            if name.lower() not in left_out:
                self.send_header(name, value)
        if self.command == "HEAD":
            length = {name.lower(): value for name, value in headers}.get("content-length", "0")
            self.send_header("content-length", length)
        else:
            self.send_header("content-length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


@contextmanager
def server(
    target: int,
    *,
    before: Callable[[Handler], bool] = lambda _: False,
    after: Answer = lambda *_: False,
) -> Iterator[tuple[int, Seen]]:
    """Run a proxy, and yield its port and what it saw."""
    seen = Seen()
    kind = type(
        "Proxy",
        (Handler,),
        {"target": target, "seen": seen, "before": staticmethod(before), "after": staticmethod(after)},
    )
    found = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    found.daemon_threads = True
    thread = threading.Thread(target=found.serve_forever, daemon=True)
    thread.start()
    try:
        yield found.server_address[1], seen
    finally:
        found.shutdown()
        found.server_close()


SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"


def failing(how: str, share: float, seed: int = 0) -> dict[str, Any]:
    """Return what a proxy does that fails some of its requests.

    Args:
        how: ``"error"`` answers 500, ``"throttled"`` 503, ``"reset"`` closes the connection after the request
            was carried out, ``"truncated"`` sends half of a body, ``"short"`` claims that half to be all of
            it, ``"slow"`` answers too late.
        share: the share of the requests that fail.
        seed: of the choice.
    """
    draw, lock = random.Random(seed), threading.Lock()

    def fails() -> bool:
        with lock:
            return draw.random() < share

    def before(handler: Handler) -> bool:
        if how not in ("error", "throttled") or not fails():
            return False
        status, content = (500, b"") if how == "error" else (503, SLOW_DOWN)
        handler.answer(status, [("content-type", "application/xml")], content)
        return True

    def after(handler: Handler, status: int, headers: list[tuple[str, str]], content: bytes) -> bool:
        if how in ("error", "throttled") or not fails():
            return False
        if how == "slow":
            time.sleep(3)  # The time limit of the test's requests is one second.
        elif how == "truncated" and len(content) > 1:
            handler.send_response(status)
            for name, value in headers:
                if name.lower() in ("content-range", "content-type", "etag", "last-modified"):
                    handler.send_header(name, value)
            handler.send_header("content-length", str(len(content)))
            handler.end_headers()
            handler.wfile.write(content[: len(content) // 2])
        elif (
            how == "short"
            and handler.command == "GET"
            and "list-type" not in handler.path
            and len(content) > 1
        ):
            handler.answer(status, headers, content[: len(content) // 2])
            return True
        elif how in ("truncated", "short"):
            return False
        handler.close_connection = True
        handler.connection.close()
        return True

    return {"before": before, "after": after}


_SIGNED = (
    "AWS4-HMAC-SHA256 Credential=CDN/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=00"
)


@contextmanager
def hub(s3: int) -> Iterator[tuple[int, Seen, Seen]]:
    """Run what the Hub's storage buckets are: redirects to a CDN, no metadata, no conditional reads.

    Yields the port, and what the Hub and its CDN saw.
    """

    def signed(handler: Handler) -> bool:
        # The CDN may read the bucket, whoever asks.
        handler.headers["authorization"] = _SIGNED
        return False

    with server(s3, before=signed) as (cdn, seen_by_cdn):

        def before(handler: Handler) -> bool:
            headers = {name.lower() for name in handler.headers}
            conditional = {"if-match", "if-none-match", "if-modified-since", "if-unmodified-since"} & headers
            tags = [name for name in headers if name.startswith(("x-amz-meta-", "x-amz-tagging"))]
            lists = handler.command == "GET" and "list-type=2" in handler.path
            if tags or (conditional and handler.command == "GET") or "list-type=1" in handler.path:
                handler.answer(501, [], b"<Error><Code>NotImplemented</Code></Error>")
                return True
            handler.path = handler.path.removeprefix("/an-organisation")
            if handler.command == "GET" and not lists:
                path = f"http://127.0.0.1:{cdn}{handler.path}"
                handler.answer(302, [("location", path)], b"")
                return True
            return False

        with server(s3, before=before) as (port, seen):
            yield port, seen, seen_by_cdn
