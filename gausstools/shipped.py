"""What comes with the package: trained networks, statistics of images, residuals along the training, published numbers.

The files stand in ``data/``, each with a card that says what it was made from. They are checked against the sha256 sums
of ``data/checksums.txt`` before they are read.
"""

import csv
import hashlib
from functools import cache
from pathlib import Path

from gausstools.models.gaussian import Gaussian

__all__ = ["names", "path", "published", "residuals", "statistics"]

_HERE = Path(__file__).parent
_FOLDERS = (_HERE / "data", _HERE.parent / "data")  # where it is installed, and in a clone of the repository
_TEXTS = {"images_from", "model", "solver"}  # columns of the tables that hold words
_COUNTS = {"images", "points", "steps_skipped", "nfe", "kimg"}  # and whole numbers; the others hold floats


def names(kind: str) -> list[str]:
    """Return for which data sets there is a file of this kind.

    Args:
        kind: "network", "statistics" or "residuals".

    >>> names("network")
    ['cifar10', 'digits', 'mnist']
    """
    stems = (Path(file).stem for file in _checksums())
    return sorted(stem.removesuffix(f"-{kind}") for stem in stems if stem.endswith(f"-{kind}"))


def path(file: str) -> Path:
    """Return where a shipped file stands, its content checked.

    Args:
        file: its name in ``data/``.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if its content is not what was shipped.

    >>> path("digits-statistics.safetensors").name
    'digits-statistics.safetensors'
    """
    sums = _checksums()
    if file not in sums:
        raise FileNotFoundError(f"gausstools ships no file {file!r}; it ships {', '.join(sorted(sums))}")
    found = _folder() / file
    if not found.is_file():
        raise FileNotFoundError(f"{found} is missing, expected it in a whole installation; install gausstools again")
    if hashlib.sha256(found.read_bytes()).hexdigest() != sums[file]:
        raise ValueError(f"{found} is not the file that was shipped: its sha256 differs. Install gausstools again")
    return found


def statistics(name: str) -> Gaussian:
    """Return the Gaussian of a data set's training images: mean, leading eigenpairs, and the rest as a tail.

    Args:
        name: "digits", "mnist" or "cifar10".

    >>> statistics("digits")
    Gaussian(event_shape=(1, 8, 8), rank=64, tail=0)
    """
    return Gaussian.load(path(f"{_known(name, 'statistics')}-statistics.safetensors"))


def residuals(name: str) -> list[dict]:
    """Return what the analytic models left unexplained of a shipped network along its training, a row for each.

    A row has ``images`` (seen so far, with repetitions), ``images_from`` ("train" or "test"), ``model``, ``sigma``, the
    fractions ``score`` and ``denoiser``, their standard errors ``score_error`` and ``denoiser_error``, and ``points``.

    Args:
        name: "digits", "mnist" or "cifar10".

    >>> row = residuals("digits")[0]
    >>> row["images"], row["images_from"], row["model"]
    (0, 'train', 'mean')
    """
    return _table(f"{_known(name, 'residuals')}-residuals.csv")


def published(name: str) -> list[dict]:
    """Return a table that the authors of the paper published, as rows; ``data/published.md`` says what it holds.

    Args:
        name: "edm_residuals", "edm_training", "heun_fid" or "solver_fid".

    >>> published("heun_fid")[0]
    {'steps_skipped': 0, 'sigma_skip': 80.0, 'nfe': 35, 'fid': 1.959}
    """
    prefix = "published_"
    known = sorted(Path(file).stem.removeprefix(prefix) for file in _checksums() if file.startswith(prefix))
    if name not in known:
        raise ValueError(f"no published table {name!r} is shipped; there are {', '.join(known)}")
    return _table(f"{prefix}{name}.csv")


def _known(name: str, kind: str) -> str:
    if name not in names(kind):
        raise ValueError(f"no {kind} of {name!r} are shipped; there are those of {', '.join(names(kind))}")
    return name


def _table(file: str) -> list[dict]:
    with path(file).open(encoding="utf-8", newline="") as lines:
        return [{key: _value(key, text) for key, text in row.items()} for row in csv.DictReader(lines)]


def _value(key: str, text: str) -> str | int | float:
    if key in _COUNTS:
        return int(text)
    return text if key in _TEXTS else float(text)


@cache
def _checksums() -> dict[str, str]:
    lines = (_folder() / "checksums.txt").read_text(encoding="utf-8").splitlines()
    return {file: digest for digest, file in (line.split() for line in lines)}


def _folder() -> Path:
    for folder in _FOLDERS:
        if (folder / "checksums.txt").is_file():
            return folder
    raise FileNotFoundError(f"no shipped data in {' or '.join(map(str, _FOLDERS))}; install gausstools again")
