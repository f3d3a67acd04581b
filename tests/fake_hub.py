"""A Hugging Face Hub for tests: read-only, local, with injected faults.

    with FakeHub(folder) as hub:    # folder/datasets/<owner>/<name>/... and folder/models/<owner>/<name>/...
        subprocess.run([...], env=os.environ | {"HF_ENDPOINT": hub.url, "HF_HOME": ...})

`HF_ENDPOINT` is read when `huggingface_hub` is imported, so a client needs its own process. A folder is a repository
with one commit, `main`, whose id is a hash of the files' content. Not supported: uploads, Xet, the data-set viewer. To
start it by hand: python tests/fake_hub.py FOLDER
"""

import argparse
import hashlib
import json
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

GOOD_TOKEN = "hf_good"
"""The access token that gated repositories accept."""


class Request(NamedTuple):
    """A request of a client."""

    method: str
    path: str
    range: str | None


@dataclass
class Faults:
    """Injected faults: part of a path -> number of requests for it that still fail."""

    unavailable: dict[str, int] = field(default_factory=dict)
    """Answered with 503."""

    too_many: dict[str, int] = field(default_factory=dict)
    """Answered with 429."""

    dropped: dict[str, int] = field(default_factory=dict)
    """The connection is closed in the middle of the body."""

    corrupted: dict[str, int] = field(default_factory=dict)
    """The body has the right length, but wrong bytes."""

    @staticmethod
    def strikes(planned: dict[str, int], path: str) -> bool:
        """Return True if the request for `path` fails, and count it."""
        for part, times in planned.items():
            if part in path and times > 0:
                planned[part] = times - 1
                return True
        return False


class Repository:
    """A folder, presented as a repository of the Hub."""

    def __init__(self, folder: Path, *, large_from: int) -> None:
        self.files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
        self._large_from = large_from
        entries = "".join(f"{name} {git_sha1(path.read_bytes())}\n" for name, path in self.files.items())
        self.commit = hashlib.sha1(entries.encode()).hexdigest()

    def entry(self, name: str) -> dict[str, Any]:
        """Return the listing's entry for a file; a large file has a sha256, as in Git LFS."""
        content = self.files[name].read_bytes()
        entry: dict[str, Any] = {"type": "file", "oid": git_sha1(content), "size": len(content), "path": name}
        if len(content) >= self._large_from:
            entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
        return entry

    def tree(self, folder: str, *, recursive: bool) -> list[dict[str, Any]]:
        """Return the entries of a folder; "" is the root."""
        prefix = f"{folder}/" if folder else ""
        inside = [name.removeprefix(prefix) for name in self.files if name.startswith(prefix)]
        folders = {
            "/".join(name.split("/")[:depth])
            for name in inside
            for depth in range(1, name.count("/") + 1)
            if recursive or depth == 1
        }
        entries = [
            {"type": "directory", "oid": git_sha1(name.encode()), "size": 0, "path": prefix + name}
            for name in sorted(folders)
        ]
        return entries + [self.entry(prefix + name) for name in inside if recursive or "/" not in name]

    def information(self, repository_id: str, *, gated: bool) -> dict[str, Any]:
        """Return the Hub's metadata of the repository."""
        return {
            "_id": "0" * 24,
            "id": repository_id,
            "modelId": repository_id,
            "author": repository_id.split("/")[0],
            "sha": self.commit,
            "lastModified": "2026-01-01T00:00:00.000Z",
            "createdAt": "2026-01-01T00:00:00.000Z",
            "private": False,
            "gated": "auto" if gated else False,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": [],
            "siblings": [{"rfilename": name} for name in self.files],
        }


class FakeHub:
    """Context manager: a server on a free port of 127.0.0.1."""

    def __init__(self, folder: Path, *, port: int = 0, large_from: int = 1 << 12) -> None:
        self.folder = folder
        self.faults = Faults()
        self.gated: set[str] = set()
        """Repositories whose files need `Authorization: Bearer hf_good`."""
        self.requests: list[Request] = []
        self._large_from = large_from
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", port), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> "FakeHub":
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def repository(self, kind: str, repository_id: str) -> Repository | None:
        """Return a repository of the kind `datasets` or `models`; None if it does not exist."""
        folder = self.folder / kind / repository_id
        return Repository(folder, large_from=self._large_from) if folder.is_dir() else None


_KIND_AND_ID = r"/api/(?P<kind>models|datasets)/(?P<id>[^/]+(?:/[^/]+)?)"
_ROUTES = {
    "information": re.compile(_KIND_AND_ID + r"(?:/revision/(?P<revision>[^/]+))?"),
    "tree": re.compile(_KIND_AND_ID + r"/tree/(?P<revision>[^/]+)(?:/(?P<path>.*))?"),
    "paths_info": re.compile(_KIND_AND_ID + r"/paths-info/(?P<revision>[^/]+)"),
    "file": re.compile(r"/(?P<kind>datasets/)?(?P<id>[^/]+(?:/[^/]+)?)/resolve/(?P<revision>[^/]+)/(?P<path>.+)"),
}


class _Handler(BaseHTTPRequestHandler):
    """Handles the requests of one connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # otherwise a body waits 40 ms for the acknowledgment of its headers
    hub: FakeHub

    def log_message(self, *_arguments: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        url, faults = urlsplit(self.path), self.hub.faults
        posted = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.hub.requests.append(Request(self.command, self.path, self.headers.get("Range")))
        if faults.strikes(faults.unavailable, url.path):
            return self._refuse(503, "ServiceUnavailable", "try again later")
        if faults.strikes(faults.too_many, url.path):
            return self._send(429, {"error": "too many requests"}, {"Retry-After": "1"})
        for route, pattern in _ROUTES.items():
            if match := pattern.fullmatch(url.path):
                found = {name: unquote(text or "") for name, text in match.groupdict().items()}
                kind = found["kind"].rstrip("/") or "models"
                repository = self._repository(kind, found["id"], found["revision"], files=route == "file")
                if repository is not None:
                    self._answer_about(route, repository, found, parse_qs(url.query), posted)
                return None
        return self._refuse(404, "NotFound", f"the fake Hub has no answer to {url.path}")

    def _repository(self, kind: str, repository_id: str, revision: str, *, files: bool) -> Repository | None:
        """Return the repository. If the client has no access, send an error response and return None."""
        repository = self.hub.repository(kind, repository_id)
        if repository is None:  # the Hub returns the same error for missing and for private repositories
            self._refuse(401, "RepoNotFound", "Repository not found")
        elif files and repository_id in self.hub.gated and self.headers.get("Authorization") != f"Bearer {GOOD_TOKEN}":
            self._refuse(401, "GatedRepo", f"Access to {repository_id} is restricted")
        elif revision not in ("", "main", repository.commit):
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        else:
            return repository
        return None

    def _answer_about(
        self,
        route: str,
        repository: Repository,
        found: Mapping[str, str],
        query: Mapping[str, list[str]],
        posted: bytes,
    ) -> None:
        if route == "information":
            self._send(200, repository.information(found["id"], gated=found["id"] in self.hub.gated))
        elif route == "tree":
            recursive = query.get("recursive", ["false"])[-1].lower() in ("true", "1")
            entries = repository.tree(found["path"].strip("/"), recursive=recursive)
            if entries or not found["path"]:
                self._send(200, entries)
            else:
                self._refuse(404, "EntryNotFound", f"{found['path']} does not exist")
        elif route == "paths_info":
            as_json = "json" in self.headers.get("Content-Type", "")
            paths = json.loads(posted)["paths"] if as_json else parse_qs(posted.decode()).get("paths", [])
            self._send(200, [repository.entry(path) for path in paths if path in repository.files])
        else:
            self._send_file(repository, found["path"])

    def _send_file(self, repository: Repository, name: str) -> None:
        commit = {"X-Repo-Commit": repository.commit}
        if name not in repository.files:
            return self._refuse(404, "EntryNotFound", "Entry not found", commit)
        content = repository.files[name].read_bytes()
        entry = repository.entry(name)
        headers = commit | {
            "ETag": f'"{entry["lfs"]["oid"] if "lfs" in entry else entry["oid"]}"',
            "Accept-Ranges": "bytes",
            "X-Linked-Size": str(len(content)),
        }
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        status, first, last = 200, 0, len(content) - 1
        if wanted:
            status, first, last = 206, int(wanted[1]), min(int(wanted[2] or last), last)
            if first > last:
                return self._send(416, b"", {"Content-Range": f"bytes */{len(content)}"})
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
        body = content[first : last + 1]
        if self.command == "GET" and self.hub.faults.strikes(self.hub.faults.corrupted, self.path):
            body = bytes(byte ^ 0x55 for byte in body)
        drop = self.command == "GET" and self.hub.faults.strikes(self.hub.faults.dropped, self.path)
        return self._send(status, body, headers, only=len(body) // 2 if drop else None)

    def _refuse(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        explained = {"X-Error-Code": code, "X-Error-Message": message}
        self._send(status, {"error": message}, explained | dict(headers or {}))

    def _send(
        self, status: int, body: object, headers: Mapping[str, str] | None = None, *, only: int | None = None
    ) -> None:
        """Send a response. With a limit, send only the first bytes of its body, and close the connection."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        kind = "application/octet-stream" if isinstance(body, bytes) else "application/json"
        for name, value in {"Content-Type": kind, "Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[:only])
        if only is not None:
            self.wfile.flush()
            self.close_connection = True
            self.connection.close()


def git_sha1(content: bytes) -> str:
    """Return the Git blob id of a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def main() -> None:
    """Serve a folder until Ctrl-C."""
    parser = argparse.ArgumentParser(description="A Hugging Face Hub on this machine, from a folder.")
    parser.add_argument("folder", type=Path, help="holds datasets/OWNER/NAME/... and models/OWNER/NAME/...")
    parser.add_argument("--port", type=int, default=8765)
    arguments = parser.parse_args()
    with FakeHub(arguments.folder, port=arguments.port) as hub:
        print(f"HF_ENDPOINT={hub.url}", flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            return


if __name__ == "__main__":
    main()
