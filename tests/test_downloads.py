"""Downloads from servers that misbehave: what is cached is right, and what is not says what to do."""

import errno
import hashlib
import re
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from gausstools.datasets import DataUnavailable, downloads

CONTENT = bytes(range(256)) * 4000
MD5 = hashlib.md5(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """A server of one file that does what `manner` says, and remembers which ranges were asked for."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.manner, self.ranges = "well", []
        self.url = f"http://127.0.0.1:{self.server_port}/file.gz"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        manner, asked = self.server.manner, self.headers.get("Range")
        self.server.ranges.append(asked)
        if isinstance(manner, int):
            return self.send_error(manner)
        content = {"html": b"<html>please log in</html>", "corrupted": CONTENT[:-1] + b"?"}.get(manner, CONTENT)
        start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked and manner != "no ranges" else 0
        if start >= len(content):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        if start:
            start -= 7 if manner == "wrong range" else 0
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Type", "text/html" if manner == "html" else "application/gzip")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        end = len(content) // 2 if manner == "interrupted" else len(content)
        if manner == "slow":
            self.wfile.write(content[start : start + 1000])
            time.sleep(1)
            start += 1000
        self.wfile.write(content[start:end])
        return None

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "_cache", lambda: tmp_path / "cache")
    with Server() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def fetch(server):
    return downloads.fetch("Toys", server.url, MD5)


def visible(tmp_path):
    return {path.name for path in (tmp_path / "cache").iterdir() if not path.name.startswith(".")}


def test_a_file_is_downloaded_once(server, tmp_path):
    path = fetch(server)
    assert path.read_bytes() == CONTENT
    assert fetch(server) == path
    assert server.ranges == [None]
    assert visible(tmp_path) == {"file.gz"}


def test_a_file_that_went_bad_in_the_cache_is_downloaded_anew(server):
    fetch(server).write_bytes(CONTENT[:-1])
    assert fetch(server).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("manner", "reason"),
    [
        (404, "the server answered 404"),
        (500, "the server answered 500"),
        ("html", r"a web page \(text/html\) instead of the file"),
        ("corrupted", f"another checksum than md5 {MD5}"),
    ],
)
def test_a_wrong_answer_is_reported_with_three_ways_out_and_leaves_nothing(server, tmp_path, manner, reason):
    server.manner = manner
    with pytest.raises(DataUnavailable, match=f"Toys is not .*{re.escape(server.url)}.*{reason}") as caught:
        fetch(server)
    assert all(way in str(caught.value) for way in ("where there is a network", "data_dir=", "GAUSSTOOLS_DATA"))
    assert isinstance(caught.value, OSError)
    assert visible(tmp_path) == set()
    server.manner = "well"
    assert fetch(server).read_bytes() == CONTENT


def test_an_interrupted_download_goes_on_where_it_stopped(server, tmp_path):
    server.manner = "interrupted"
    with pytest.raises(DataUnavailable, match="could not be downloaded"):
        fetch(server)
    assert visible(tmp_path) == {"file.gz.part"}
    have = (tmp_path / "cache" / "file.gz.part").stat().st_size
    assert 0 < have <= len(CONTENT) // 2
    server.manner = "well"
    assert fetch(server).read_bytes() == CONTENT
    assert server.ranges == [None, f"bytes={have}-"]
    assert visible(tmp_path) == {"file.gz"}


@pytest.mark.parametrize(
    ("part", "manner"),
    [
        (b"of another file", "well"),  # the checksum of the whole is wrong: once more, from the beginning
        (CONTENT[:1000], "no ranges"),  # a server that knows no ranges sends all
        (CONTENT, "well"),  # all had come, and the process died before it was moved
        (CONTENT + b"too much", "well"),
        (b"", "well"),
    ],
)
def test_whatever_was_left_behind_the_file_is_right(server, tmp_path, part, manner):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "file.gz.part").write_bytes(part)
    server.manner = manner
    assert fetch(server).read_bytes() == CONTENT
    assert visible(tmp_path) == {"file.gz"}


def test_a_server_that_sends_another_part_is_not_believed(server, tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "file.gz.part").write_bytes(CONTENT[:1000])
    server.manner = "wrong range"
    with pytest.raises(DataUnavailable, match="another part than asked for, from byte 1000"):
        fetch(server)


def test_without_a_network_the_error_comes_at_once(server, tmp_path):
    server.shutdown()
    server.server_close()
    start = time.monotonic()
    with pytest.raises(DataUnavailable, match=r"is there a network\?.*three ways to get it"):
        fetch(server)
    assert time.monotonic() - start < 5
    assert visible(tmp_path) == set()


def test_a_full_disk_is_named_and_what_came_is_kept(server, tmp_path, monkeypatch):
    class Full:
        def __init__(self, path, mode):
            self.file = open(path, mode)  # noqa: SIM115

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def write(self, chunk):
            self.file.write(chunk[:10])
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(downloads, "open", Full, raising=False)
        with pytest.raises(DataUnavailable, match=f"No space left on device.*{re.escape(str(tmp_path))}"):
            fetch(server)
    assert fetch(server).read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=10-"]


def test_a_cache_that_cannot_be_written_is_named(server, tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(DataUnavailable, match=f"{re.escape(str(tmp_path / 'cache'))}.*three ways"):
        fetch(server)


def test_two_at_a_time_download_once(server):
    server.manner = "slow"
    found = []
    threads = [threading.Thread(target=lambda: found.append(fetch(server).read_bytes())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [CONTENT, CONTENT]
    assert server.ranges == [None]


def test_of_two_processes_one_may_be_killed(server, tmp_path):
    server.manner = "slow"
    code = "import pathlib, runpy, sys; file, url, md5, cache = sys.argv[1:]; fetch = runpy.run_path(file)['fetch']\n"
    code += "fetch.__globals__['_cache'] = lambda: pathlib.Path(cache); fetch('Toys', url, md5)"
    command = [sys.executable, "-c", code, downloads.__file__, server.url, MD5, str(tmp_path / "cache")]
    first, second = (subprocess.Popen(command, stderr=subprocess.DEVNULL) for _ in range(2))
    while not (tmp_path / "cache" / "file.gz.part").exists():
        time.sleep(0.01)
    first.kill()
    assert second.wait(30) == 0
    assert (tmp_path / "cache" / "file.gz").read_bytes() == CONTENT
    assert visible(tmp_path) == {"file.gz"}
    first.wait()


def test_a_kill_after_the_last_byte_leaves_nothing_behind(server, tmp_path, monkeypatch):
    """Whatever call comes after the download, the next one finds the part or the whole, and no third file."""

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(downloads.os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            fetch(server)
    assert visible(tmp_path) == {"file.gz.part"}
    assert fetch(server).read_bytes() == CONTENT
    assert visible(tmp_path) == {"file.gz"}
