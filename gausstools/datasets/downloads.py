"""Files of data sets: found in a folder, or in the cache, or downloaded into it.

A download is written beside its place and moved there when its checksum is right, so the cache never holds a wrong
file under a right name. One that was interrupted goes on where it stopped, and a process that finds another one at work
waits for it.
"""

import os
from pathlib import Path

__all__ = ["DataUnavailable"]

CONNECT, READ = 5.0, 60.0
"""Seconds that a server may take to accept a connection, and to send the next bytes."""


class DataUnavailable(OSError):
    """A data set's files are neither in a folder nor in the cache, and cannot be downloaded. The message says why.

    >>> import gausstools as gt
    >>> try:
    ...     gt.datasets.load("mnist", data_dir="no/such/folder")
    ... except gt.datasets.DataUnavailable as error:
    ...     print(error)
    data_dir is no/such/folder, which is no folder; expected one with the files of MNIST
    """


def locate(
    data_set: str, data_dir: str | os.PathLike | None, subfolder: str, names: list[str], remote: tuple[str, str]
) -> Path:
    """Return the path of a data set's file: in the folder, or without one in the cache, downloaded if need be.

    Args:
        data_set: its name, for messages.
        data_dir: the folder; None takes the one that the environment variable ``GAUSSTOOLS_DATA`` names, if any.
        subfolder: where in the folder the file may also be.
        names: under which the file may be there; the first that exists is taken.
        remote: address and md5 of the file that is downloaded.

    Raises:
        DataUnavailable: if it is not to be had.
    """
    named, folder = "data_dir", data_dir
    if data_dir is None:
        named, folder = "GAUSSTOOLS_DATA", os.environ.get("GAUSSTOOLS_DATA")
        if not folder:
            return fetch(data_set, *remote)
    path = Path(folder).expanduser()
    if not path.is_dir():
        raise DataUnavailable(f"{named} is {path}, which is no folder; expected one with the files of {data_set}")
    candidates = [place / name for place in (path / subfolder, path) for name in names]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise DataUnavailable(
        f"{named} is {path}, which does not hold {data_set}: there is neither {' nor '.join(map(str, candidates))}. "
        f"Pickled files are not read, because unpickling runs code; get {remote[0]}, or name no folder to download it"
    )


def fetch(data_set: str, url: str, md5: str) -> Path:
    """Return the path of a file in the cache, downloaded if it is not there with this checksum.

    Raises:
        DataUnavailable: if it cannot be downloaded.
        ImportError: without pooch.
    """
    try:
        import filelock
        import pooch
    except ImportError as error:
        raise ImportError(f"{data_set} is downloaded with pooch: pip install 'gausstools[data]'") from error

    cache = _cache()
    path = cache / url.rpartition("/")[2]
    part = path.with_name(f"{path.name}.part")
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(cache / f".{path.name}.lock"):
            while not (path.is_file() and pooch.file_hash(str(path), "md5") == md5):
                resumed = part.exists()
                _go_on(url, part)
                # A kill before this line leaves the part, to go on with; after it, the whole.
                if pooch.file_hash(str(part), "md5") == md5:
                    os.replace(part, path)
                    break
                part.unlink()
                # What was resumed may have been the beginning of another file. Of the whole, a second try says no more.
                if not resumed:
                    raise ValueError(f"what came has another checksum than md5 {md5}")
    except (OSError, ValueError) as error:  # requests' errors are OSErrors too
        raise DataUnavailable(
            f"{data_set} is not on this machine and could not be downloaded from {url}: {_reason(error)}. There are "
            "three ways to get it: (1) run this again where there is a network, or copy the file from a machine with "
            f"one to {cache}; (2) name a folder that has it, load(..., data_dir=FOLDER); (3) name that folder once and "
            "for all in the environment variable GAUSSTOOLS_DATA"
        ) from error
    return path


def _cache() -> Path:
    import pooch

    return Path(pooch.os_cache("gausstools"))


def _go_on(url: str, part: Path) -> None:
    """Write what an address gives to a file that may hold its beginning already."""
    import requests
    from tqdm import tqdm

    have = part.stat().st_size if part.exists() else 0
    # Bytes as they are: a server that compresses what is compressed already would change their number.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with requests.get(url, headers=headers, stream=True, timeout=(CONNECT, READ)) as answer:
        if answer.status_code == 416:  # there is nothing after what we have: it is the whole, or something else
            return
        answer.raise_for_status()
        kind, start = answer.headers.get("Content-Type", ""), answer.headers.get("Content-Range", "")
        if "html" in kind:
            raise requests.RequestException(f"the server sent a web page ({kind}) instead of the file")
        goes_on = answer.status_code == 206  # or it sends all, whatever was asked for
        if goes_on and not start.startswith(f"bytes {have}-"):
            raise requests.RequestException(f"the server sent another part than asked for, from byte {have}")
        with open(part, "ab" if goes_on else "wb") as file, tqdm(desc=part.stem, unit="B", unit_scale=True) as bar:
            for piece in answer.iter_content(2**18):
                bar.update(file.write(piece))


def _reason(error: Exception) -> str:
    import requests

    if getattr(error, "response", None) is not None:
        return f"the server answered {error.response.status_code} {error.response.reason}"
    if isinstance(error, requests.ConnectionError) and error.request is not None:  # it never came to an answer
        return "the server could not be reached; is there a network?"
    return str(error)
