"""A Hugging Face Hub on loopback that speaks what huggingface_hub's client asks, and fails on demand.

Large files are served as the Hub does it: `resolve` redirects to a CDN path. Every request is recorded, with
its Range and the bytes that were sent.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self
from urllib.parse import unquote, urlsplit

LARGE = 1024  # bytes from which a file is kept as LFS


@dataclass
class Faults:
    """What goes wrong, by file name ("*" is every file); counts go down as they are used up."""

    cut: dict[str, list[int]] = field(default_factory=dict)  # close after so many bytes of the body
    truncate: dict[str, int] = field(default_factory=dict)  # end a chunked body early, n times
    wrong_bytes: dict[str, int] = field(default_factory=dict)  # flip a byte, n times
    status: dict[str, list[int]] = field(default_factory=dict)  # answer with this status
    api_status: list[int] = field(default_factory=list)
    retry_after: int | None = None
    chunk_delay: float = 0.0  # between two pieces of 16 KiB
    ignore_range: bool = False


@dataclass
class Request:
    method: str
    path: str
    range: str | None
    sent: int = 0
    status: int = 0


@dataclass
class Repo:
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    gated: bool = False


class Hub:
    """The server. Use as a context manager; `url` is for HF_ENDPOINT."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.faults = Faults()
        self.requests: list[Request] = []
        self.token = "hf_right"
        self.lock = threading.Lock()
        hub = self

        class Handler(_Handler):
            pass

        Handler.hub = hub
        self._server = _Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def commit(self, repo: str, files: dict[str, bytes], branch: str = "main") -> str:
        """Add a commit that `branch` points to from now on; returns its hash."""
        listing = json.dumps({name: hashlib.sha256(data).hexdigest() for name, data in sorted(files.items())})
        sha = hashlib.sha1(listing.encode()).hexdigest()
        home = self.repos.setdefault(repo, Repo())
        home.commits[sha] = dict(files)
        home.branches[branch] = sha
        return sha

    def fetched(self, name: str) -> list[Request]:
        """GET requests for a file's body, redirects left out."""
        return [
            r
            for r in self.requests
            if r.method == "GET" and r.path.endswith("/" + name) and r.status in (200, 206)
        ]

    def bytes_sent(self, name: str) -> int:
        return sum(request.sent for request in self.fetched(name))


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        """A client that went away is what some tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self._serve()

    def do_GET(self):
        self._serve()

    def _serve(self):
        path = unquote(urlsplit(self.path).path)
        self.record = Request(self.command, path, self.headers.get("Range"))
        with self.hub.lock:
            self.hub.requests.append(self.record)
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            self._model_info(match[1], match[2] or "main")
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._resolve(*match.groups())
        elif match := re.fullmatch(r"/cdn/([^/]+/[^/]+)/([^/]+)/(.+)", path):
            self._body(match[3], self.hub.repos[match[1]].commits[match[2]][match[3]])
        else:
            self._fail(404, "")

    def _fail(self, status, code, message=""):
        body = json.dumps({"error": message or code}).encode()
        headers = {"X-Error-Code": code, "X-Error-Message": message or code}
        if self.hub.faults.retry_after is not None:
            headers["Retry-After"] = str(self.hub.faults.retry_after)
        self._answer(status, body, headers)

    def _answer(self, status, body, headers):
        self.record.status = status
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def _allowed(self, repo):
        if repo not in self.hub.repos:
            self._fail(401 if "private" in repo else 404, "RepoNotFound", "Repository not found")
            return None
        home = self.hub.repos[repo]
        if home.gated and self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            self._fail(403, "GatedRepo", f"Access to model {repo} is restricted.")
            return None
        return home

    def _model_info(self, repo, revision):
        if self.hub.faults.api_status:
            self._fail(self.hub.faults.api_status.pop(0), "")
            return
        home = self._allowed(repo) if not self._gated_but_listed(repo) else self.hub.repos[repo]
        if home is None:
            return
        sha = home.branches.get(revision, revision)
        if sha not in home.commits:
            self._fail(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return
        siblings = [_sibling(name, data) for name, data in home.commits[sha].items()]
        info = {
            "id": repo,
            "sha": sha,
            "siblings": siblings,
            "private": False,
            "gated": home.gated,
            "tags": [],
        }
        self._answer(200, json.dumps(info).encode(), {"Content-Type": "application/json"})

    def _gated_but_listed(self, repo):
        """The real Hub shows a gated repository's listing to everyone, and its files to few."""
        return repo in self.hub.repos and self.hub.repos[repo].gated

    def _resolve(self, repo, revision, name):
        home = self._allowed(repo)
        if home is None:
            return
        if statuses := self.hub.faults.status.get(name) or self.hub.faults.status.get("*"):
            self._fail(statuses.pop(0), "")
            return
        sha = home.branches.get(revision, revision)
        data = home.commits.get(sha, {}).get(name)
        if data is None:
            self._fail(404, "EntryNotFound", "Entry not found")
        elif len(data) >= LARGE:
            self._answer(
                302, b"", {"Location": f"{self.hub.url}/cdn/{repo}/{sha}/{name}", "X-Repo-Commit": sha}
            )
        else:
            self._body(name, data)

    def _body(self, name, data):
        faults = self.hub.faults
        if _use_up(faults.wrong_bytes, name):
            data = bytes([data[0] ^ 1]) + data[1:]
        start = 0
        if self.record.range and not faults.ignore_range:
            start = int(re.fullmatch(r"bytes=(\d+)-", self.record.range)[1])
        if start > len(data) or (start == len(data) and data):
            self._fail(416, "")
            return
        chunked = _use_up(faults.truncate, name)
        self.record.status = 206 if start else 200
        self.send_response(self.record.status)
        if chunked:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(len(data) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        if self.command == "GET":
            self._send(name, data[start:], chunked=chunked)

    def _send(self, name, data, *, chunked):
        if chunked:
            half = data[: len(data) // 2]
            self.record.sent += len(half)
            self.wfile.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(half), half))
            return
        cuts = self.hub.faults.cut.get(name)
        limit = cuts.pop(0) if cuts else len(data)
        for at in range(0, limit, 16384):
            if at:  # never behind the last: a client that has everything asks its next question on this connection
                time.sleep(self.hub.faults.chunk_delay)
            piece = data[at : min(at + 16384, limit)]
            self.record.sent += len(piece)  # first: who has the last byte may look at once
            self.wfile.write(piece)
        if limit < len(data):
            with contextlib.suppress(OSError):
                self.wfile.flush()
            self.close_connection = True
            self.connection.close()


def _use_up(counts, name):
    key = name if name in counts else "*"
    if counts.get(key, 0) > 0:
        counts[key] -= 1
        return True
    return False


def _sibling(name, data):
    blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    entry = {"rfilename": name, "size": len(data), "blobId": blob}
    if len(data) >= LARGE:
        entry["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 135}
    return entry
