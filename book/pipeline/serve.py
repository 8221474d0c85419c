"""Show the built site on localhost."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

from book.pipeline.errors import PipelineError
from book.pipeline.layout import Book


class _Quiet(SimpleHTTPRequestHandler):
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
