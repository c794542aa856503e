"""A small stand-in for the Hub's HTTP interface on the loopback address: what the real client asks of it.

Answers for data set repositories: ``/api/datasets/<id>[/revision/<rev>]``, ``.../tree/<rev>/<path>``,
``.../paths-info/<rev>`` and ``/datasets/<id>/resolve/<rev>/<path>`` (HEAD and GET, with ranges); for models
the same under ``/api/models/<id>`` and ``/<id>/resolve/<rev>/<path>``. Who has the token may also upload a
model: ``/api/repos/create``, ``/api/models/<id>/preupload/<rev>``, ``.../commit/<rev>``, git LFS for what is
large (but not Xet), and ``/api/validate-yaml``.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import parse_qs, unquote, urlsplit


@dataclass
class Repository:
    """One data set or model: revision name -> {path: contents}. Each revision is one commit."""

    revisions: dict[str, dict[str, bytes]]
    private: bool = False
    head: str = ""  # the commit that was pushed last, if any: there main stands

    def commit(self, revision: str) -> str:
        """The commit of a revision, forty digits; a commit names itself."""
        revision = self._named(revision)
        return next((c for name in self.revisions if revision in (name, c := _sha(name))), "")

    def files(self, revision: str) -> dict[str, bytes]:
        """Path -> contents at a revision or commit."""
        revision = self._named(revision)
        return next(files for name, files in self.revisions.items() if revision in (name, _sha(name)))

    def push(self, files: dict[str, bytes]) -> str:
        """A new commit of main; returns it."""
        self.head = _sha(f"{len(self.revisions)} {sorted(files)}")
        self.revisions[self.head] = files
        return self.head

    def _named(self, revision: str) -> str:
        return self.head if self.head and revision == "main" else revision


@dataclass
class Hub:
    """What the server serves, what was asked of it, and what goes wrong."""

    repositories: dict[str, Repository]
    models: dict[str, Repository] = field(default_factory=dict)
    token: str = "hf_writes"  # who has it may write into the namespace "org"
    large: tuple[str, ...] = ()  # models whose weights go by git LFS
    objects: dict[str, bytes] = field(default_factory=dict)  # what LFS was sent, by its sha256
    cards: list[str] = field(default_factory=list)  # model cards that were sent to be checked
    cut: str = ""  # a file whose path holds this text is cut off in the middle
    requests: list[str] = field(default_factory=list)
    endpoint: str = ""


@contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    """Run the server on a free port for as long as the block lasts."""
    handler = type("BoundHandler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: ClassVar[Hub]
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._route()

    def do_HEAD(self) -> None:
        self._route()

    def do_POST(self) -> None:
        self._route()

    def do_PUT(self) -> None:
        self._route()

    def log_message(self, *args: Any) -> None:
        pass

    def _route(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        address = urlsplit(self.path)
        self.hub.requests.append(f"{self.command} {self.path}")
        parts = [unquote(part) for part in address.path.strip("/").split("/")]
        if self.command == "PUT":  # to an address of its own, which needs no token
            self.hub.objects[parts[-1]] = body
            self._send(200, b"", {})
        elif parts == ["api", "validate-yaml"]:
            self.hub.cards.append(json.loads(body)["content"])
            self._answer({"errors": [], "warnings": []})
        elif parts == ["api", "repos", "create"] or parts[2:] == ["info", "lfs", "objects", "batch"]:
            self._write(parts[:2], parts[-1], body)
        elif parts[:2] == ["api", "models"] and parts[4:5] in (["preupload"], ["commit"]):
            self._write(parts[2:4], parts[4], body)
        elif parts[:2] in (["api", "datasets"], ["api", "models"]):
            self._api(parts[1:], parse_qs(address.query), body.decode())
        elif "resolve" in parts[2:4]:
            at = parts.index("resolve")
            kind = "datasets" if at == 3 else "models"
            self._resolve(kind, "/".join(parts[at - 2 : at]), parts[at + 1], "/".join(parts[at + 2 :]))
        else:
            self._error(404, "", "no such route")

    def _repository(self, kind: str, name: str, revision: str) -> Repository | None:
        """The repository, or None after the Hub's own error has been sent."""
        repository = (self.hub.repositories if kind == "datasets" else self.hub.models).get(name)
        if repository is not None and repository.private and not self._may_write():
            repository = None
        if repository is None:
            self._error(404, "RepoNotFound", "Repository not found")
        elif not repository.commit(revision):
            self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return None
        return repository

    def _api(self, parts: list[str], query: dict[str, list[str]], body: str) -> None:
        kind, *parts = parts
        name, verb = "/".join(parts[:2]), parts[2] if len(parts) > 2 else "revision"
        revision = parts[3] if len(parts) > 3 else "main"
        repository = self._repository(kind, name, revision)
        if repository is None:
            return
        files = repository.files(revision)
        if verb == "revision":
            siblings = [{"rfilename": path} for path in files]
            answer: Any = {
                "id": name,
                "sha": repository.commit(revision),
                "siblings": siblings,
                "private": repository.private,
            }
        elif verb == "tree":
            answer = _tree(files, "/".join(parts[4:]), query.get("recursive", ["false"])[0].lower() == "true")
            if answer is None:
                return self._error(404, "EntryNotFound", "no such folder")
        elif verb == "paths-info":
            wanted = json.loads(body)["paths"] if body.startswith("{") else parse_qs(body).get("paths", [])
            answer = [entry for path in wanted for entry in _entry(files, path)]
        else:
            return self._error(404, "", f"no such route: {verb}")
        return self._answer(answer)

    def _resolve(self, kind: str, name: str, revision: str, path: str) -> None:
        repository = self._repository(kind, name, revision)
        if repository is None:
            return
        commit = {"X-Repo-Commit": repository.commit(revision)}
        contents = repository.files(revision).get(path)
        if contents is None:
            return self._error(404, "EntryNotFound", "Entry not found", commit)
        headers = {**commit, "ETag": f'"{_digest(contents)}"', "Accept-Ranges": "bytes"}
        if self.command == "GET" and self.hub.cut and self.hub.cut in path:
            return self._send_cut(contents, headers)
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if asked is None:
            self._send(200, contents, headers)
            return None
        first, last = int(asked[1]), min(int(asked[2] or len(contents)), len(contents) - 1)
        headers |= {"Content-Range": f"bytes {first}-{last}/{len(contents)}"}
        self._send(206, contents[first : last + 1], headers)
        return None

    def _may_write(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {self.hub.token}"

    def _write(self, repository: list[str], verb: str, body: bytes) -> None:
        """What a client asks that uploads a model."""
        if not self._may_write():
            return self._error(401, "", "Invalid username or password.")
        name = "/".join(repository).removesuffix(".git")
        if verb == "create":
            return self._create(json.loads(body))
        if verb == "batch":
            places = [self._place(pointer) for pointer in json.loads(body)["objects"]]
            return self._answer({"transfer": "basic", "objects": places})
        if verb == "preupload":
            return self._answer(
                {"files": [self._mode(name, file["path"]) for file in json.loads(body)["files"]]}
            )
        commit = self.hub.models[name].push(self._committed(self.hub.models[name], body))
        address = f"{self.hub.endpoint}/{name}/commit/{commit}"
        return self._answer({"commitUrl": address, "commitOid": commit, "hookOutput": "", "success": True})

    def _create(self, asked: dict[str, Any]) -> None:
        name = f"{asked['organization']}/{asked['name']}"
        if asked["organization"] != "org":
            return self._error(403, "", f"You have no rights to create a model under {asked['organization']}")
        there = name in self.hub.models
        if not there:
            self.hub.models[name] = Repository({"main": {}}, private=asked.get("visibility") == "private")
        return self._answer({"url": f"{self.hub.endpoint}/{name}"}, 409 if there else 200)

    def _mode(self, name: str, path: str) -> dict[str, Any]:
        mode = "lfs" if name in self.hub.large and path.endswith(".safetensors") else "regular"
        return {"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": None}

    def _place(self, pointer: dict[str, Any]) -> dict[str, Any]:
        """Where one large file is to be put."""
        upload = {"href": f"{self.hub.endpoint}/store/{pointer['oid']}"}
        return {**pointer, "actions": {"upload": upload}}

    def _committed(self, repository: Repository, body: bytes) -> dict[str, bytes]:
        """The files after a commit, which comes as one JSON object a line."""
        files = dict(repository.files("main"))
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
            elif entry["key"] == "deletedFile":
                del files[value["path"]]
        return files

    def _send_cut(self, contents: bytes, headers: dict[str, str]) -> None:
        """Promises everything, sends half, hangs up."""
        self._start(200, len(contents), headers)
        self.wfile.write(contents[: len(contents) // 2])
        self.wfile.flush()
        self.close_connection = True

    def _answer(self, content: Any, status: int = 200) -> None:
        self._send(status, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _error(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        named = {"X-Error-Code": code} if code else {}
        self._send(
            status,
            json.dumps({"error": message}).encode(),
            {**named, "X-Error-Message": message, **(headers or {})},
        )

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self._start(status, len(body), headers)
        if self.command != "HEAD":
            self.wfile.write(body)

    def _start(self, status: int, length: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(length)}.items():
            self.send_header(name, value)
        self.end_headers()


def _sha(name: str) -> str:
    """The commit that a branch stands at; a commit is its own."""
    return name if re.fullmatch("[0-9a-f]{40}", name) else hashlib.sha1(name.encode()).hexdigest()


def _digest(contents: bytes) -> str:
    """The name git gives to contents."""
    return hashlib.sha1(b"blob %d\0" % len(contents) + contents).hexdigest()


def _file(path: str, contents: bytes) -> dict[str, Any]:
    return {"type": "file", "oid": _digest(contents), "size": len(contents), "path": path}


def _folder(path: str) -> dict[str, Any]:
    return {"type": "directory", "oid": _sha(path), "size": 0, "path": path}


def _entry(files: dict[str, bytes], path: str) -> list[dict[str, Any]]:
    if path in files:
        return [_file(path, files[path])]
    return [_folder(path)] if any(name.startswith(f"{path}/") for name in files) else []


def _tree(files: dict[str, bytes], folder: str, recursive: bool) -> list[dict[str, Any]] | None:
    """Lists a folder; None where there is no such folder."""
    prefix = f"{folder}/" if folder else ""
    inside = {name: contents for name, contents in files.items() if name.startswith(prefix)}
    if folder and not inside:
        return None
    entries: dict[str, dict[str, Any]] = {}
    for name, contents in inside.items():
        steps = name[len(prefix) :].split("/")
        for depth in range(1, len(steps) if recursive else min(len(steps), 2)):
            path = prefix + "/".join(steps[:depth])
            entries[path] = _folder(path)
        if recursive or len(steps) == 1:
            entries[name] = _file(name, contents)
    return list(entries.values())
