"""Show the built site on localhost."""

import errno
import gzip
import io
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

from book.pipeline.errors import PipelineError
from book.pipeline.layout import Book

_TEXT = {".html", ".css", ".js", ".svg"}


@lru_cache(maxsize=200)
def _compressed(path: Path, _modified: int) -> bytes:
    return gzip.compress(path.read_bytes(), compresslevel=6)


class _Quiet(SimpleHTTPRequestHandler):
    def send_head(self) -> io.BufferedIOBase | None:
        """Send text compressed, as the hosts of such sites do, so that a page weighs here what it weighs there."""
        path = Path(self.translate_path(self.path))
        if path.suffix not in _TEXT or not path.is_file() or "gzip" not in self.headers.get("Accept-Encoding", ""):
            return super().send_head()
        body = _compressed(path, path.stat().st_mtime_ns)
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", self.guess_type(path))
        self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        return io.BytesIO(body)

    def log_message(self, *_: object) -> None:
        """Say nothing: a page is some forty requests."""

    def end_headers(self) -> None:
        """Forbid caching, or a rebuilt page would not show."""
        self.send_header("Cache-Control", "no-store")
        super().end_headers()


def _server(folder: Path, port: int) -> ThreadingHTTPServer:
    if not (folder / "index.html").is_file():
        raise PipelineError(f"There are no pages in {folder}. Run `make book` first.")
    try:
        return ThreadingHTTPServer(("127.0.0.1", port), partial(_Quiet, directory=str(folder)))
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise PipelineError(
                f"Cannot serve on port {port}: {error.strerror}. Choose one: make serve PORT=8001"
            ) from None
        raise PipelineError(
            f"Port {port} is in use by another program. Choose another: make serve PORT={port + 1}"
        ) from None


def serve(book: Book, port: int) -> None:
    """Serve the site until interrupted."""
    with _server(book.html, port) as server:
        print(f"The book is at http://127.0.0.1:{server.server_port}/ (Ctrl-C ends this)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()


@contextmanager
def background(folder: Path) -> Iterator[str]:
    """Serve `folder` on a free port from another thread; yields its address."""
    with _server(folder, 0) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
