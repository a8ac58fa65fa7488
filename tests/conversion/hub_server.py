"""A hub on this machine: as much of the protocol as huggingface_hub speaks when it lists and downloads."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote


@dataclass
class Repository:
    """Files by commit, and names of commits; files of at least `large` bytes lie on another path, as LFS has them."""

    commits: dict[str, dict[str, bytes]]
    refs: dict[str, str]
    gated: bool = False
    large: int = 1000


@dataclass
class Hub:
    """What the server serves, and what it was asked.

    Attributes:
        asked: method and path of every request.
        sent: the files of which data was sent, with the range if one was asked for.
        cut: paths whose first answer breaks off after so many bytes.
        down: whether every answer is an error of the server.
        url, store: its address, and the one that large files are at, another host as far as a client can tell.
    """

    repositories: dict[str, Repository] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    sent: list[str] = field(default_factory=list)
    cut: dict[str, int] = field(default_factory=dict)
    down: bool = False
    url: str = ""
    store: str = ""


@contextmanager
def served(hub: Hub) -> Iterator[Hub]:
    """Serve a hub at an address of this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url, hub.store = (f"http://{host}:{server.server_address[1]}" for host in ("127.0.0.1", "localhost"))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(self.path.split("?")[0])
        self.hub.asked.append(f"{self.command} {path}")
        listing = re.fullmatch(r"/api/models/([^/]+(?:/[^/]+)?)(?:/revision/(.+))?", path)
        file = re.fullmatch(r"/([^/]+(?:/[^/]+)?)/resolve/((?:refs/pr/)?[^/]+)/(.+)", path)
        if self.hub.down:
            self.answer(418, b"")
        elif path.startswith("/large/"):
            self.data(*self.find_large(path.removeprefix("/large/")), {})
        elif listing:
            self.list(*listing.groups())
        elif file:
            self.file(*file.groups())
        else:
            self.answer(404, b"")

    def find(self, name: str, revision: str | None) -> tuple[Repository, str] | None:
        """Return a repository and a commit, or answer that they are not there."""
        repository = self.hub.repositories.get(name)
        if repository is None:
            self.answer(401, b"", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
            return None
        commit = repository.refs.get(revision or "main", revision)
        if commit not in repository.commits:
            self.answer(404, b"", {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "Invalid rev id"})
            return None
        return repository, commit

    def list(self, name: str, revision: str | None) -> None:
        if found := self.find(name, revision):
            repository, commit = found
            siblings = [{"rfilename": file} for file in repository.commits[commit]]
            info = {"_id": "1", "id": name, "modelId": name, "sha": commit, "siblings": siblings, "private": False}
            self.answer(200, json.dumps(info).encode(), {"Content-Type": "application/json"})

    def file(self, name: str, revision: str, file: str) -> None:
        found = self.find(name, revision)
        if found is None:
            return
        repository, commit = found
        if repository.gated:
            self.answer(403, b"", {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to it is restricted"})
            return
        data = repository.commits[commit].get(file)
        if data is None:
            self.answer(404, b"", {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"})
            return
        sha = hashlib.sha256(data).hexdigest()
        headers = {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha1(data).hexdigest()}"'}
        if len(data) < repository.large:
            self.data(file, data, headers)
            return
        linked = {
            "X-Linked-Etag": f'"{sha}"',
            "X-Linked-Size": str(len(data)),
            "Location": f"{self.hub.store}/large/{sha}",
        }
        self.answer(302, b"", headers | linked)

    def find_large(self, sha: str) -> tuple[str, bytes]:
        commits = [commit for each in self.hub.repositories.values() for commit in each.commits.values()]
        files = (item for commit in commits for item in commit.items())
        return next((name, data) for name, data in files if hashlib.sha256(data).hexdigest() == sha)

    def data(self, name: str, data: bytes, headers: dict[str, str]) -> None:
        """Answer with a file, or with the range of it that was asked for."""
        if self.command == "GET":
            self.hub.sent.append(f"{name} {self.headers.get('Range', '')}".strip())
        headers = headers | {"Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not asked:
            self.answer(200, data, headers)
            return
        start, end = int(asked[1]), int(asked[2] or len(data) - 1)
        headers["Content-Range"] = f"bytes {start}-{end}/{len(data)}"
        self.answer(206, data[start : end + 1], headers)

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        length = self.hub.cut.pop(self.path, len(body))
        self.wfile.write(body[:length])
        if length < len(body):
            self.close_connection = True
