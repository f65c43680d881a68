"""The Hugging Face Hub's HTTP API on loopback, as far as a dataset is published by it."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from imagepipeline_dagster.loopback import QuietServer

TOKEN = "hf_s3cr3t"
_LARGE = (".parquet", ".webp", ".tar")


_UNKNOWN = JSONResponse({"error": "Invalid credentials"}, status_code=401)
_REFUSED = JSONResponse({"error": "not now"}, status_code=403)


@dataclass
class Hub:
    """One dataset repository; `stop_at` names a step that is refused once, before or after it."""

    url: str = ""
    stop_at: str = ""
    private: bool = False
    commits: list[dict[str, bytes]] = field(default_factory=list)
    tags: dict[str, int] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    uploads: list[str] = field(default_factory=list)

    @property
    def files(self) -> dict[str, bytes]:
        """The files of main."""
        return self.commits[-1] if self.commits else {}

    def at(self, revision: str) -> int:
        """Return the number of the commit that a branch, a tag or an id names."""
        if revision in self.tags:
            return self.tags[revision]
        return len(self.commits) - 1 if revision == "main" else int(revision, 16)

    def stops(self, step: str) -> bool:
        """Tell whether this step is the one to refuse; only the first time."""
        if self.stop_at != step:
            return False
        self.stop_at = ""
        return True

    async def create(self, request: Request) -> Response:
        """Make the repository."""
        if not _is_known(request):
            return _UNKNOWN
        page = f"{self.url}/datasets/foxes/den"
        if self.commits:
            there = {"error": "You already created this repo", "url": page}
            return JSONResponse(there, status_code=409)
        self.private = (await request.json())["visibility"] == "private"
        self.commits.append({".gitattributes": b"* text"})
        return JSONResponse({"url": page})

    async def refs(self, _: Request) -> Response:
        """Tell its branches and tags."""

        def ref(name: str, kind: str) -> dict[str, str]:
            target = _sha(self.at(name))
            return {"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": target}

        tags = [ref(name, "tags") for name in self.tags]
        return JSONResponse({"branches": [ref("main", "heads")], "tags": tags, "converts": []})

    async def info(self, request: Request) -> Response:
        """Tell its newest commit."""
        if not _is_known(request):
            return _UNKNOWN
        return JSONResponse({"id": "foxes/den", "sha": _sha(self.at("main"))})

    async def tree(self, request: Request) -> Response:
        """Tell its files."""
        files = self.commits[self.at(request.path_params["revision"])]
        told = [
            {"type": "file", "path": path, "size": len(data), "oid": _blob(data)}
            for path, data in files.items()
        ]
        return JSONResponse(told)

    async def validate(self, _: Request) -> Response:
        """Accept every card."""
        return JSONResponse({})

    async def preupload(self, request: Request) -> Response:
        """Tell how each file is to be sent, and which is there."""
        told = []
        for file in (await request.json())["files"]:
            large = file["path"].endswith(_LARGE)
            there = self.files.get(file["path"])
            known = hashlib.sha256(there or b"").hexdigest() if large else _blob(there or b"")
            told.append(
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if large else "regular",
                    "shouldIgnore": False,
                    "oid": None if there is None else known,
                }
            )
        return JSONResponse({"files": told})

    async def batch(self, request: Request) -> Response:
        """Tell where large files are sent that are not there."""
        told: list[dict[str, Any]] = []
        for wanted in (await request.json())["objects"]:
            entry = dict(wanted)
            if wanted["oid"] not in self.objects:
                link = f"{self.url}/lfs/{wanted['oid']}?signature=s3cr3t-link"
                entry["actions"] = {"upload": {"href": link}}
            told.append(entry)
        return JSONResponse({"objects": told})

    async def upload(self, request: Request) -> Response:
        """Take a large file."""
        if self.uploads and self.stops("upload"):
            return _REFUSED
        oid = request.path_params["oid"]
        data = await request.body()
        assert hashlib.sha256(data).hexdigest() == oid
        self.objects[oid] = data
        self.uploads.append(oid)
        return Response()

    async def commit(self, request: Request) -> Response:
        """Make all changes or none."""
        if self.stops("commit"):
            return _REFUSED
        files = dict(self.files)
        for line in (await request.body()).splitlines():
            said = json.loads(line)
            value = said["value"]
            match said["key"]:
                case "header":
                    if value["parentCommit"] != _sha(self.at("main")):
                        return JSONResponse({"error": "main has moved"}, status_code=412)
                case "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    files[value["path"]] = self.objects[value["oid"]]
                case "deletedFile":
                    del files[value["path"]]
        self.commits.append(files)
        if self.stops("answer of the commit"):
            return JSONResponse({"error": "lost"}, status_code=502)
        oid = _sha(self.at("main"))
        return JSONResponse(
            {"commitOid": oid, "commitUrl": f"{self.url}/datasets/foxes/den/commit/{oid}"}
        )

    async def tag(self, request: Request) -> Response:
        """Make a tag."""
        if self.stops("tag"):
            return _REFUSED
        name = (await request.json())["tag"]
        assert name not in self.tags
        self.tags[name] = self.at(request.path_params["revision"])
        return Response()

    async def resolve(self, request: Request) -> Response:
        """Return a file."""
        number = self.at(request.path_params["revision"])
        data = self.commits[number].get(request.path_params["path"])
        headers = {"X-Repo-Commit": _sha(number)}
        if data is None:
            return Response(status_code=404, headers=headers | {"X-Error-Code": "EntryNotFound"})
        return Response(data, headers=headers | {"ETag": f'"{_blob(data)}"'})


def _app(hub: Hub) -> Starlette:
    api = "/api/datasets/foxes/den"
    return Starlette(
        routes=[
            Route("/api/repos/create", hub.create, methods=["POST"]),
            Route("/api/validate-yaml", hub.validate, methods=["POST"]),
            Route(f"{api}/refs", hub.refs),
            Route(f"{api}/tree/{{revision}}", hub.tree),
            Route(f"{api}/preupload/main", hub.preupload, methods=["POST"]),
            Route(f"{api}/commit/main", hub.commit, methods=["POST"]),
            Route(f"{api}/tag/{{revision}}", hub.tag, methods=["POST"]),
            Route(api, hub.info),
            Route(f"{api}/revision/main", hub.info),
            Route("/datasets/foxes/den.git/info/lfs/objects/batch", hub.batch, methods=["POST"]),
            Route("/datasets/foxes/den/resolve/{revision}/{path:path}", hub.resolve),
            Route("/lfs/{oid}", hub.upload, methods=["PUT"]),
        ]
    )


def _is_known(request: Request) -> bool:
    return request.headers.get("authorization") == f"Bearer {TOKEN}"


def _sha(number: int) -> str:
    return f"{number:040x}"


def _blob(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()  # noqa: S324 - git's own


@contextmanager
def serving() -> Iterator[Hub]:
    """Serve a Hub without a repository."""
    hub = Hub()
    server = QuietServer(_app(hub))
    hub.url = server.url
    server.start()
    try:
        yield hub
    finally:
        server.stop()
