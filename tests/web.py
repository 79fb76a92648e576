"""A web server with the files of a model: ranges, and the ways in which servers fail."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit


@dataclass
class WebModel:
    """What a server has and how it behaves; may be changed while it runs.

    Attributes:
        files: Path without its first slash → content.
        lists: Whether a directory is answered with a page of links.
        knows_ranges: Whether a part of a file can be had.
        tells_size: Whether answers carry a length.
        status: Path → status to answer with instead, always.
        breaks_after: Bytes after which a connection is cut, for the next `num_breaks` answers.
        waits_after: Bytes sent in all after which answers wait for `go_on`.
        headers: Added to each answer.
        requests: Method, path and range of what was asked for.
        num_bytes_sent: Of files.
    """

    files: dict[str, bytes]
    lists: bool = False
    knows_ranges: bool = True
    tells_size: bool = True
    status: dict[str, int] = field(default_factory=dict)
    breaks_after: int = 0
    num_breaks: int = 0
    waits_after: int | None = None
    headers: dict[str, dict[str, str]] = field(default_factory=dict)
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    num_bytes_sent: int = 0
    go_on: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def asked_for(self, path: str, method: str = "GET") -> int:
        """How often a file was asked for."""
        with self.lock:
            return sum((verb, name) == (method, path) for verb, name, _ in self.requests)


@contextmanager
def serving(model: WebModel) -> Iterator[str]:
    """The URL of a server on this machine."""

    class Handler(_Handler):
        web = model

    with _Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            model.go_on.set()
            server.shutdown()
            thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads, block_on_close = True, False

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # clients are killed here


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    web: WebModel

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _answer(self) -> None:
        name = unquote(urlsplit(self.path).path).lstrip("/")
        with self.web.lock:
            self.web.requests.append((self.command, name, self.headers.get("Range", "")))
        if name in self.web.status:
            self._send(self.web.status[name], b"")
        elif name in self.web.files:
            self._send_file(name, self.web.files[name])
        elif self.web.lists and (not name or name.endswith("/")):
            links = sorted(file.removeprefix(name) for file in self.web.files if file.startswith(name))
            page = "".join(f'<a href="{link}">{link}</a> ' for link in ["../", "?C=N;O=D", *links])
            self._send(200, page.encode(), {"Content-Type": "text/html"})
        else:
            self._send(404, b"")

    def _send_file(self, name: str, content: bytes) -> None:
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()[:16]}"', **self.web.headers.get(name, {})}
        asked = self.headers.get("Range", "")
        if not (asked and self.web.knows_ranges):
            self._send(200, content, headers)
            return
        first, _, last = asked.removeprefix("bytes=").partition("-")
        start, stop = int(first), min(int(last or len(content)) + 1, len(content))
        if start >= len(content):
            self._send(416, b"")
            return
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(content)}"
        self._send(206, content[start:stop], headers)

    def _send(self, status: int, content: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for header, value in (headers or {}).items():
            self.send_header(header, value)
        if self.web.tells_size or not content:
            self.send_header("Content-Length", str(len(content)))
        else:
            self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        if self.command == "HEAD":
            return
        self._send_body(content)

    def _send_body(self, content: bytes) -> None:
        with self.web.lock:
            breaks = self.web.num_breaks > 0 and len(content) > self.web.breaks_after
            self.web.num_breaks -= breaks
        for start in range(0, len(content), 4096):
            piece = content[start : start + 4096]
            if breaks and start >= self.web.breaks_after:
                self.close_connection = True
                return
            if self.web.waits_after is not None and self.web.num_bytes_sent >= self.web.waits_after:
                self.web.go_on.wait(60)
            try:
                self.wfile.write(piece if self.web.tells_size else b"%x\r\n%s\r\n" % (len(piece), piece))
            except OSError:  # whoever asked is gone
                self.close_connection = True
                return
            with self.web.lock:
                self.web.num_bytes_sent += len(piece)
        if not self.web.tells_size and content:
            self.wfile.write(b"0\r\n\r\n")
