"""A hub on this machine that has one checkpoint: what its library asks for, and no more."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

__all__ = ["COMMIT", "Hub", "serving"]

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """What it serves, and what it was asked for.

    Args:
        folder: Of the checkpoint.
        name: `owner/name`.
        license: As its card says; None for a card without one.
        gated: Whether it asks for a token.
        lies: Whether it publishes wrong hashes of what it sends.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        *,
        license: str | None = "mit",
        gated: bool = False,
        lies: bool = False,
    ) -> None:
        self.folder, self.name, self.license = folder, name, license
        self.gated, self.lies = gated, lies
        self.asked: list[str] = []
        self.address = ""

    def sha256(self, file: Path) -> str:
        content = file.read_bytes() + (b"!" if self.lies else b"")
        return hashlib.sha256(content).hexdigest()

    def files(self) -> list[Path]:
        return sorted(p for p in self.folder.iterdir() if p.is_file())

    def entry(self, file: Path) -> dict[str, Any]:
        told: dict[str, Any] = {
            "type": "file",
            "path": file.name,
            "size": file.stat().st_size,
            "oid": hashlib.sha1(file.read_bytes()).hexdigest(),
        }
        if file.suffix in (".safetensors", ".bin"):
            told["lfs"] = {"oid": self.sha256(file), "size": told["size"], "pointerSize": 130}
        return told

    def info(self) -> dict[str, Any]:
        card = {"license": self.license} if self.license else {}
        return {
            "_id": "1",
            "id": self.name,
            "modelId": self.name,
            "sha": COMMIT,
            "private": False,
            "gated": "manual" if self.gated else False,
            "cardData": card,
            "tags": [],
            "downloads": 1,
            "likes": 0,
            "siblings": [{"rfilename": file.name} for file in self.files()],
        }


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """Serve until the end of the block; `hub.address` says where."""

    class Answer(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            del format, args

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.asked.append(path)
            if path.startswith(f"/api/models/{hub.name}/tree/"):
                self._json([hub.entry(file) for file in hub.files()])
            elif path.startswith(f"/api/models/{hub.name}"):
                self._json(hub.info())
            elif path.startswith(f"/{hub.name}/resolve/{COMMIT}/"):
                self._file(hub.folder / path.rpartition("/")[2])
            else:
                self._refuse(404, "RepoNotFound", "Repository not found")

        def _file(self, file: Path) -> None:
            if hub.gated:
                self._refuse(403, "GatedRepo", "Access to this model is restricted")
                return
            if not file.is_file():
                self._refuse(404, "EntryNotFound", "Entry not found")
                return
            content, entry = file.read_bytes(), hub.entry(file)
            self.send_response(200)
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{entry["lfs"]["oid"] if "lfs" in entry else entry["oid"]}"')
            self._content(content, "application/octet-stream")

        def _json(self, value: Any) -> None:
            self.send_response(200)
            self.send_header("X-Repo-Commit", COMMIT)
            self._content(json.dumps(value).encode(), "application/json")

        def _refuse(self, code: int, name: str, why: str) -> None:
            self.send_response(code)
            self.send_header("X-Error-Code", name)
            self.send_header("X-Error-Message", why)
            self._content(b"{}", "application/json")

        def _content(self, content: bytes, kind: str) -> None:
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    hub.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
