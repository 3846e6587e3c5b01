"""A small server that speaks the hub's protocol, for the real huggingface_hub. It can tear what it sends."""

import hashlib
import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"
MODEL = "someone/tiny"


class Torn(Exception):
    """The connection is to end here."""


@dataclass
class Hub:
    """One repository with one commit, and what was asked of it."""

    directory: Path
    address: str = ""
    downloads: list[str] = field(default_factory=list)
    resumed: list[str] = field(default_factory=list)
    error: tuple[int, str] | None = None
    """A status, and the hub's name for it."""
    listing_error: tuple[int, str] | None = None
    """The same where only the list of files is asked for."""
    amid_weights: Callable[[socket.socket], None] | None = None
    """Called when half of what was asked of a weight file has been sent."""


def cut(connection: socket.socket) -> None:
    """End the connection before the file does."""
    raise Torn


def reset(connection: socket.socket) -> None:
    """The same, rudely."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    raise Torn


class Handler(BaseHTTPRequestHandler):
    hub: Hub
    amid: Callable[[socket.socket], None] | None = None
    """Of the answer that is being sent."""

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def answer(self, with_body: bool) -> None:
        path = self.path.split("?")[0]
        if self.hub.error is not None or MODEL not in path:
            self.refuse(*(self.hub.error or (401, "RepoNotFound")))
        elif path.startswith("/api/") and self.hub.listing_error is not None:
            self.refuse(*self.hub.listing_error)
        elif path.startswith("/api/"):
            self.send(self.listing(), "listing", with_body)
        elif not (self.hub.directory / Path(path).name).is_file():
            self.refuse(404, "EntryNotFound")
        else:
            self.send_file(self.hub.directory / Path(path).name, with_body)

    def listing(self) -> bytes:
        files = [{"type": "file", "path": path.name, "oid": "0", "size": 1} for path in self.hub.directory.iterdir()]
        return json.dumps(files).encode()

    def send_file(self, path: Path, with_body: bool) -> None:
        """All of it, a part with two ends, as for a header, or the rest of what was torn."""
        content, requested = path.read_bytes(), self.headers.get("Range", "bytes=0-")
        first, last = requested.removeprefix("bytes=").split("-")
        if with_body and not last:
            (self.hub.resumed if int(first) else self.hub.downloads).append(path.name)
        part = content[int(first) : int(last) + 1 if last else None]
        self.amid = self.hub.amid_weights if path.suffix == ".safetensors" and not last else None
        self.send(part, etag(path), with_body, 206 if "Range" in self.headers else 200)

    def send(self, content: bytes, etag: str, with_body: bool, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{etag}"')
        self.end_headers()
        if with_body:
            self.send_halves(content)

    def send_halves(self, content: bytes) -> None:
        half = len(content) // 2
        self.wfile.write(content[:half])
        if self.amid is not None:
            try:
                self.amid(self.connection)
            except Torn:
                self.close_connection = True
                return
        self.wfile.write(content[half:])

    def refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


def etag(path: Path) -> str:
    """As the hub's: of a large file its checksum."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.suffix == ".safetensors" else path.name


class _Server(ThreadingHTTPServer):
    def handle_error(self, *_: Any) -> None:
        """Whoever asked may be killed meanwhile."""


@contextmanager
def serving(directory: Path) -> Iterator[Hub]:
    """A hub at an address of this machine, with one model."""
    hub = Hub(directory)
    with _Server(("127.0.0.1", 0), type("HandlerOfOne", (Handler,), {"hub": hub})) as server:
        hub.address = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()
