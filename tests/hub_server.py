# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""A small Hub on 127.0.0.1 for tests: what `huggingface_hub` and `datasets` ask of the real one to push and to load.

Repositories live in memory: a commit is `{path: content}`, a branch is the number of a commit. Files of some kinds
travel by LFS; there is no Xet, so clients need `HF_HUB_DISABLE_XET=1`. `HubServer.cut` breaks connections at a chosen
request, `HubServer.on_request` is called before each, and `HubServer.requests` remembers them all.
"""

import base64
import hashlib
import json
import os
import re
import socket
import threading
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from uuid import uuid4

import pytest

TOKEN, USER = "hf_valid", "someone"
LFS_SUFFIXES = (".safetensors", ".parquet", ".wav", ".bin")
REPOSITORY = r"(?P<kind>models|datasets)/(?P<name>[\w.-]+/[\w.-]+)"
FILES = r"/(?P<kind>datasets/)?(?P<name>[\w.-]+/[\w.-]+?)"
ROUTES = [
    ("GET", r"/api/whoami-v2", "whoami"),
    ("POST", r"/api/validate-yaml", "validate_yaml"),
    ("POST", r"/api/repos/create", "create"),
    ("POST", rf"/api/{REPOSITORY}/branch/(?P<branch>.+)", "branch"),
    ("POST", rf"/api/{REPOSITORY}/preupload/(?P<revision>[^/]+)", "preupload"),
    ("POST", rf"/api/{REPOSITORY}/commit/(?P<revision>[^/]+)", "commit"),
    ("POST", rf"/api/{REPOSITORY}/paths-info/(?P<revision>[^/]+)", "paths_info"),
    ("GET", rf"/api/{REPOSITORY}/tree/(?P<revision>[^/]+)/?(?P<folder>.*)", "tree"),
    ("GET", rf"/api/{REPOSITORY}(/revision/(?P<revision>[^/]+))?", "info"),
    ("POST", rf"{FILES}\.git/info/lfs/objects/batch", "lfs_batch"),
    ("PUT", r"/lfs/(?P<oid>\w+)", "lfs_upload"),
    ("POST", r"/lfs/verify", "lfs_verify"),
    ("GET", rf"{FILES}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "resolve"),
    ("HEAD", rf"{FILES}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "resolve"),
]


class Refusal(Exception):
    """An error response: its status, and the header by which the client distinguishes errors."""

    def __init__(self, status: int, code: str = "", message: str = ""):
        self.status, self.code, self.message = status, code, message


@dataclass
class Repository:
    """One repository: its commits in order, and which of them each branch points at."""

    private: bool = False
    commits: list[dict[str, bytes]] = field(default_factory=lambda: [{}])
    messages: list[str] = field(default_factory=lambda: ["initial commit"])
    branches: dict[str, int] = field(default_factory=lambda: {"main": 0})
    salt: str = field(default_factory=lambda: uuid4().hex)

    def find(self, revision: str) -> int:
        """The number of a commit, by its branch or its hash."""
        if revision in self.branches:
            return self.branches[revision]
        hashes = [self.hash(number) for number in range(len(self.commits))]
        if revision not in hashes:
            raise Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return hashes.index(revision)

    def hash(self, number: int) -> str:
        """The hash of a commit; no other repository has the same, for clients keep what they know of a hash."""
        return hashlib.sha1(f"{self.salt} {number}".encode()).hexdigest()

    def files(self, branch: str = "main") -> dict[str, bytes]:
        """What the last commit of a branch holds."""
        return self.commits[self.branches[branch]]


@dataclass
class Cut:
    """Connections to break: at requests like `pattern`, so many `times`, after so many bytes of the body, or only
    once the request has been carried out, before the response."""

    pattern: str
    times: float = float("inf")
    after_bytes: int = 0
    carried_out: bool = False


def git_oid(content: bytes) -> str:
    """What git calls this content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class HubServer(ThreadingHTTPServer):
    """`with HubServer() as hub:` serves at `hub.url` until the block ends."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        """Forgets everything."""
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.blobs: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.received: defaultdict[str, int] = defaultdict(int)
        self.cut: Cut | None = None
        self.on_request: Callable[[str], None] | None = None

    def __enter__(self) -> "HubServer":
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def repository(self, kind: str, name: str) -> Repository:
        if (kind, name) not in self.repositories:
            raise Refusal(404, "RepoNotFound", "Repository not found")
        return self.repositories[kind, name]

    def model(self, name: str) -> Repository:
        return self.repository("models", name)

    def dataset(self, name: str) -> Repository:
        return self.repository("datasets", name)

    def environment(self, home: Path) -> dict[str, str]:
        """Variables of another process on another machine: nothing cached, this package not installed."""
        kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "HF_HUB_OFFLINE")}
        return kept | {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": TOKEN}

    def serve_this_process(self, monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
        """Makes this process's client, which read the variables when it was imported, take this Hub for the real one;
        nobody is logged in."""
        settings = {
            "ENDPOINT": self.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": self.url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_DISABLE_XET": True,
            "HF_HUB_OFFLINE": False,
            "HF_HUB_CACHE": str(home / "hub"),
            "HF_TOKEN_PATH": str(home / "token"),
        }
        for name, value in settings.items():
            monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
        monkeypatch.setattr("datasets.config.HF_ENDPOINT", self.url)
        monkeypatch.setattr("transformers.utils.hub._hf_api", None, raising=False)  # a client of an earlier Hub
        monkeypatch.delenv("HF_TOKEN", raising=False)


class Handler(BaseHTTPRequestHandler):
    """Handles one request with the method in `ROUTES`; its result is sent as JSON."""

    protocol_version = "HTTP/1.1"
    server: HubServer

    def output(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append(f"{self.command} {path}")
        if self.server.on_request:
            self.server.on_request(path)
        cut = self._take_cut(f"{self.command} {path}")
        if cut and not cut.carried_out:
            self.server.received[path] += len(self.rfile.read(cut.after_bytes))
            return self._hang_up()
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        try:
            with self.server.lock:
                reply = self._route(path)
        except Refusal as refusal:
            headers = {"X-Error-Code": refusal.code, "X-Error-Message": refusal.message}
            return self._send(refusal.status, json.dumps({"error": refusal.message}).encode(), headers)
        if cut:
            return self._hang_up()
        if reply is not None:
            self._send(200, json.dumps(reply).encode(), {"Content-Type": "application/json"})

    do_GET = do_HEAD = do_POST = do_PUT = output

    def _take_cut(self, request: str) -> Cut | None:
        cut = self.server.cut
        if cut is None or not re.search(cut.pattern, request) or cut.times < 1:
            return None
        cut.times -= 1
        return cut

    def _hang_up(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def _route(self, path: str) -> Any:
        for method, pattern, name in ROUTES:
            match = re.fullmatch(pattern, path)
            if method == self.command and match:
                groups = match.groupdict()
                if name not in ("lfs_upload", "resolve") or "Authorization" in self.headers:
                    self._check_token(write=method == "POST")
                if "kind" in groups:
                    groups["kind"] = (groups["kind"] or "models").rstrip("/")
                    self._check_access(groups["kind"], groups["name"], name)
                return getattr(self, name)(**groups)
        raise Refusal(404, "", f"no such endpoint: {self.command} {path}")

    def _check_token(self, write: bool) -> None:
        given = self.headers.get("Authorization")
        if given is None and write:
            raise Refusal(401, "", "Invalid username or password.")
        if given not in (None, f"Bearer {TOKEN}"):
            raise Refusal(401, "", "Invalid credentials in Authorization header")

    def _check_access(self, kind: str, name: str, action: str) -> None:
        repository = self.server.repository(kind, name)
        if repository.private and "Authorization" not in self.headers:
            raise Refusal(401, "RepoNotFound", "Repository not found")
        if action in ("branch", "preupload", "commit", "lfs_batch") and not name.startswith(f"{USER}/"):
            raise Refusal(403, "", "You don't have the rights to write here")

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Silence: `HubServer.requests` keeps what was asked."""

    # Accounts and repositories -------------------------------------------------------------------------------------

    def whoami(self) -> Any:
        return {"type": "user", "name": USER, "fullname": USER, "orgs": [], "auth": {"type": "access_token"}}

    def validate_yaml(self) -> Any:
        return {"errors": [], "warnings": []}

    def create(self) -> Any:
        asked = json.loads(self.body)
        owner, kind = asked.get("organization") or USER, asked.get("type") or "model"
        name = f"{owner}/{asked['name']}"
        if owner != USER:
            raise Refusal(403, "", f"You don't have the rights to create a {kind} under the namespace {owner!r}")
        reply = {"url": f"{self.server.url}/{'datasets/' if kind == 'dataset' else ''}{name}", "name": name}
        if (f"{kind}s", name) in self.server.repositories:
            self._send(409, json.dumps(reply).encode(), {})
            return None
        private = asked.get("visibility") == "private" or bool(asked.get("private"))
        self.server.repositories[f"{kind}s", name] = Repository(private)
        return reply

    def info(self, kind: str, name: str, revision: str | None) -> Any:
        repository = self.server.repository(kind, name)
        number = repository.find(revision or "main")
        files = [{"rfilename": path} for path in sorted(repository.commits[number])]
        sha = repository.hash(number)
        return {"id": name, "sha": sha, "private": repository.private, "siblings": files, "tags": [], "downloads": 0}

    def branch(self, kind: str, name: str, branch: str) -> Any:
        repository = self.server.repository(kind, name)
        if branch in repository.branches:
            raise Refusal(409, "", "Reference already exists")
        repository.branches[branch] = repository.branches["main"]
        return {}

    # Writing -------------------------------------------------------------------------------------------------------

    def preupload(self, kind: str, name: str, revision: str) -> Any:
        repository = self.server.repository(kind, name)
        files = repository.commits[repository.find(revision)]
        outputs = []
        for file in json.loads(self.body)["files"]:
            known, lfs = files.get(file["path"]), file["path"].endswith(LFS_SUFFIXES)
            output = {"path": file["path"], "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False}
            if known is not None:
                output["oid"] = hashlib.sha256(known).hexdigest() if lfs else git_oid(known)
            outputs.append(output)
        return {"files": outputs}

    def lfs_batch(self, kind: str, name: str) -> Any:
        objects = []
        for asked in json.loads(self.body)["objects"]:
            upload = {"href": f"{self.server.url}/lfs/{asked['oid']}"}
            actions = {"upload": upload, "verify": {"href": f"{self.server.url}/lfs/verify"}}
            objects.append(asked if asked["oid"] in self.server.blobs else {**asked, "actions": actions})
        return {"transfer": "basic", "objects": objects}

    def lfs_upload(self, oid: str) -> Any:
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise Refusal(400, "", "the content is not what its name says")
        self.server.blobs[oid] = self.body
        return {}

    def lfs_verify(self) -> Any:
        asked = json.loads(self.body)
        if len(self.server.blobs.get(asked["oid"], b"")) != asked["size"]:
            raise Refusal(404, "", "not uploaded")
        return {}

    def commit(self, kind: str, name: str, revision: str) -> Any:
        repository = self.server.repository(kind, name)
        parent = repository.find(revision)
        header, *operations = (json.loads(line) for line in self.body.splitlines())
        if header["value"].get("parentCommit") not in (None, repository.hash(parent)):
            raise Refusal(412, "", "A commit has happened since")
        files = dict(repository.commits[parent])
        for operation in operations:
            self._apply(operation["key"], operation["value"], files)
        repository.commits.append(files)
        repository.messages.append(header["value"]["summary"])
        number = repository.branches[revision] = len(repository.commits) - 1
        oid, prefix = repository.hash(number), "datasets/" if kind == "datasets" else ""
        return {"success": True, "commitOid": oid, "commitUrl": f"{self.server.url}/{prefix}{name}/commit/{oid}"}

    def _apply(self, key: str, value: dict[str, Any], files: dict[str, bytes]) -> None:
        if key == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        elif key == "lfsFile" and value["oid"] in self.server.blobs:
            files[value["path"]] = self.server.blobs[value["oid"]]
        elif key == "deletedFile" and value["path"] in files:
            del files[value["path"]]
        else:
            raise Refusal(400, "", f"{key} {value['path']} cannot be done")

    # Reading -------------------------------------------------------------------------------------------------------

    def tree(self, kind: str, name: str, revision: str, folder: str) -> Any:
        repository = self.server.repository(kind, name)
        files = repository.commits[repository.find(revision)]
        prefix = f"{folder}/" if folder else ""
        below = {path: content for path, content in files.items() if path.startswith(prefix)}
        if folder and not below:
            raise Refusal(404, "EntryNotFound", f"{folder} does not exist")
        entries = {path: self._entry(path, content) for path, content in below.items()}
        for path in below:
            for end in (match.start() for match in re.finditer("/", path[len(prefix) :])):
                parent = path[: len(prefix) + end]
                entries[parent] = {"type": "directory", "path": parent, "oid": git_oid(parent.encode()), "size": 0}
        if "recursive=true" not in self.path.lower():
            entries = {path: entry for path, entry in entries.items() if "/" not in path[len(prefix) :]}
        return [entries[path] for path in sorted(entries)]

    def paths_info(self, kind: str, name: str, revision: str) -> Any:
        asked = re.findall(r"paths=([^&]+)", self.body.decode()) or json.loads(self.body)["paths"]
        entries = {entry["path"]: entry for entry in self._whole_tree(kind, name, revision)}
        return [entries[path] for path in map(unquote, asked) if path in entries]

    def _whole_tree(self, kind: str, name: str, revision: str) -> list[dict[str, Any]]:
        self.path += "?recursive=true"
        return self.tree(kind, name, revision, "")

    @staticmethod
    def _entry(path: str, content: bytes) -> dict[str, Any]:
        entry = {"type": "file", "path": path, "oid": git_oid(content), "size": len(content)}
        if path.endswith(LFS_SUFFIXES):
            entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
        return entry

    def resolve(self, kind: str, name: str, revision: str, path: str) -> None:
        repository = self.server.repository(kind, name)
        number = repository.find(revision)
        if path not in repository.commits[number]:
            raise Refusal(404, "EntryNotFound", f"{path} does not exist")
        content = repository.commits[number][path]
        headers = {"X-Repo-Commit": repository.hash(number), "ETag": f'"{hashlib.sha256(content).hexdigest()}"'}
        status = 200
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted:
            first, last = int(wanted[1]), min(int(wanted[2] or len(content)), len(content) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            status, content = 206, content[first : last + 1]
        self._send(status, content, {"Accept-Ranges": "bytes", **headers})
