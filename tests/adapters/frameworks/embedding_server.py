"""A server of OpenAI's protocol on this machine, which can refuse, stall and answer out of order."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from toys import model


class EmbeddingServer(ThreadingHTTPServer):
    """The server.

    Attributes:
        requests: the body of each request that was answered or refused.
        trouble: what happens to the next requests: a status, or ``"stall"``.
        out_of_order: whether answers have their vectors in reverse order.
        knows_base64: whether it obeys ``encoding_format="base64"``.
        indexed: what the answers number their vectors with, instead of the index.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: list[dict[str, Any]] = []
        self.trouble: list[int | str] = []
        self.out_of_order = False
        self.knows_base64 = True
        self.indexed: int | None = None
        self.released = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        inputs = body["input"]
        if isinstance(inputs, str) or isinstance(inputs[0], int):
            inputs = [inputs]
        names = [str(item) for item in inputs]
        role = json.dumps([body.get("input_type"), body["model"]])
        vectors = np.array(model(names, role, body.get("scale", 1.0)), np.float32)[
            :, : body.get("dimensions")
        ]
        whole = body.get("encoding_format") == "base64" and self.knows_base64
        data = [
            {
                "object": "embedding",
                "index": index if self.indexed is None else self.indexed,
                "embedding": base64.b64encode(row.tobytes()).decode()
                if whole
                else [float(str(x)) for x in row],
            }
            for index, row in enumerate(vectors)
        ]
        if self.out_of_order:
            data.reverse()
        tokens = sum(map(len, names))
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return {"object": "list", "model": body["model"], "data": data, "usage": usage}


def decimals(row: Any) -> list[float]:
    """Return the numbers as servers write them in JSON: the shortest decimal of a float32."""
    return [float(str(number)) for number in row]


class _Handler(BaseHTTPRequestHandler):
    server: EmbeddingServer
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append(body)
        trouble = self.server.trouble.pop(0) if self.server.trouble else None
        if trouble == "stall":
            self.server.released.wait(60)
            self.close_connection = True
            return
        if isinstance(trouble, int):
            self._send(trouble, {"error": {"message": "trouble", "type": "trouble"}})
            return
        try:
            self._send(200, self.server.answer(body))
        except Exception as error:
            self._send(400, {"error": {"message": str(error), "type": type(error).__name__}})

    def _send(self, status: int, content: dict[str, Any]) -> None:
        text = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        if status == 429:
            self.send_header("Retry-After-Ms", "1")
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def running() -> EmbeddingServer:
    """Return a server that runs in a thread."""
    server = EmbeddingServer()
    serve = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    serve.start()
    return server


@contextmanager
def serving() -> Iterator[EmbeddingServer]:
    """Run a server in a thread, and stop it at the end."""
    server = running()
    try:
        yield server
    finally:
        server.released.set()
        server.shutdown()
        server.server_close()
