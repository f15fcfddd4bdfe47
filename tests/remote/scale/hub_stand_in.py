"""The requests of the Hub by which a data set repository is written and read, on this machine."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

REPOSITORY = "an-organisation/some-vectors"


class Repository:
    """One data set repository with its commits.

    Attributes:
        commits: the files of each commit, by its digest, oldest first.
        tokens: the authorizations that were sent.
    """

    def __init__(self) -> None:
        self.commits: dict[str, dict[str, bytes]] = {
            "0" * 40: {"README.md": b"---\nlicense: mit\n---\nOurs.\n"}
        }
        self.tokens: list[str] = []

    @property
    def newest(self) -> str:
        return list(self.commits)[-1]

    def files(self, revision: str) -> dict[str, bytes]:
        return self.commits[self.newest if revision == "main" else revision]

    def commit(self, lines: list[dict[str, Any]]) -> str | None:
        files = dict(self.files("main"))
        for line in lines:
            value = line["value"]
            if line["key"] == "header" and value.get("parentCommit") != self.newest:
                return None
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        digest = hashlib.sha1(repr(sorted(files.items())).encode() + self.newest.encode()).hexdigest()
        self.commits[digest] = files
        return digest


@contextmanager
def hub() -> Iterator[tuple[str, Repository]]:
    """Run the Hub, and yield its address and the repository."""
    repository = Repository()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

        def _json(self, content: Any, status: int = 200) -> None:
            self._send(json.dumps(content).encode(), status, {"content-type": "application/json"})

        def _send(self, content: bytes, status: int, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            if self.headers.get("transfer-encoding") == "chunked":
                body = self._chunks()
            repository.tokens.append(self.headers.get("authorization", ""))
            path = urlsplit(self.path).path
            if path == "/api/validate-yaml":
                self._json({"errors": [], "warnings": []})
            elif path == f"/api/datasets/{REPOSITORY}/preupload/main":
                files = json.loads(body)["files"]
                self._json(
                    {
                        "files": [
                            {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                            for file in files
                        ]
                    }
                )
            elif path == f"/api/datasets/{REPOSITORY}/commit/main":
                digest = repository.commit([json.loads(line) for line in body.splitlines()])
                if digest is None:
                    self._json({"error": "A commit has happened since."}, 412)
                else:
                    url = f"http://{self.headers['host']}/datasets/{REPOSITORY}/commit/{digest}"
                    self._json({"commitUrl": url, "commitOid": digest})
            else:
                self._json({"error": "no such repository"}, 404)

        def _chunks(self) -> bytes:
            found = b""
            while size := int(self.rfile.readline(), 16):
                found += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return found

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            api, resolve = f"/api/datasets/{REPOSITORY}", f"/datasets/{REPOSITORY}/resolve/"
            if path.startswith(f"{api}/tree/"):
                revision, _, below = path.removeprefix(f"{api}/tree/").partition("/")
                self._tree(repository.files(revision), below, recursive="recursive=true" in self.path.lower())
            elif path in (api, f"{api}/revision/main") or path.startswith(f"{api}/revision/"):
                revision = path.rpartition("/")[2] if "/revision/" in path else "main"
                digest = repository.newest if revision == "main" else revision
                self._json({"id": REPOSITORY, "sha": digest, "siblings": [], "private": False, "tags": []})
            elif path.startswith(resolve):
                revision, _, name = path.removeprefix(resolve).partition("/")
                content = repository.files(revision).get(name)
                if content is None:
                    self._send(b"", 404, {"x-error-code": "EntryNotFound", "x-repo-commit": revision})
                else:
                    etag = f'"{hashlib.sha1(content).hexdigest()}"'
                    self._send(content, 200, {"etag": etag, "x-repo-commit": revision})
            else:
                self._send(b"", 404, {"x-error-code": "RepoNotFound"})

        do_HEAD = do_GET  # noqa: N815

        def _tree(self, files: dict[str, bytes], below: str, *, recursive: bool) -> None:
            prefix = f"{below}/" if below else ""
            inside = {name: content for name, content in files.items() if name.startswith(prefix)}
            if not inside:
                self._send(b"", 404, {"x-error-code": "EntryNotFound"})
                return
            entries: list[dict[str, Any]] = []
            for name, content in inside.items():
                if recursive or "/" not in name.removeprefix(prefix):
                    oid = hashlib.sha1(content).hexdigest()
                    entries.append({"type": "file", "path": name, "size": len(content), "oid": oid})
            above = {prefix + name.removeprefix(prefix).partition("/")[0] for name in inside} - set(inside)
            no_digest = "0" * 40
            entries += [{"type": "directory", "path": name, "oid": no_digest} for name in sorted(above)]
            self._json(entries)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", repository
    finally:
        server.shutdown()
        server.server_close()
