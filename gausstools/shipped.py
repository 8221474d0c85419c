"""What comes with the package: trained networks, statistics of images and features, residuals, published numbers.

The files stand in ``data/``, each with a card that says what it was made from. They are checked against the sha256 sums
of ``data/checksums.txt`` before they are read.
"""

import csv
import hashlib
from functools import cache
from pathlib import Path

from gausstools.denoiser import check_choice
from gausstools.models.gaussian import Gaussian

__all__ = ["feature_statistics", "floor", "jumps", "names", "path", "published", "residuals", "solvers", "statistics"]

_HERE = Path(__file__).parent
_FOLDERS = (_HERE / "data", _HERE.parent / "data")  # where it is installed, and in a clone of the repository
_TEXTS = {"data_set", "grid", "images_from", "model", "solver"}  # columns of the tables that hold words
_COUNTS = {"images", "points", "seeds", "steps", "steps_skipped", "nfe", "kimg"}  # whole numbers; others hold floats


def names(kind: str) -> list[str]:
    """Return for which data sets there is a file of this kind.

    Args:
        kind: "network", "statistics", "residuals", "classifier", "features-train", "features-test" or "jumps".

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


def feature_statistics(name: str, split: str = "train") -> Gaussian:
    """Return the Gaussian of the features that a data set's images have in its shipped classifier.

    It is what :func:`gausstools.features.frechet` compares samples with, in the features of
    ``gausstools.features.load(name)``.

    Args:
        name: "digits", "mnist" or "cifar10".
        split: the images of which split, "train" or "test"; ``data/classifiers.md`` says how many they are.

    >>> feature_statistics("digits").event_shape
    torch.Size([32])
    """
    check_choice(split, "split", "train", "test")
    return Gaussian.load(path(f"{_known(name, f'features-{split}')}-features-{split}.safetensors"))


def floor(name: str) -> dict:
    """Return how far real images that a classifier never saw are from those that it was trained on, in its features.

    It is the :class:`gausstools.features.Distance` of the test images to ``feature_statistics(name)``: ``value``,
    ``error``, ``extrapolated`` and ``images``. Samples no better and no worse than real images come out near it.

    Args:
        name: "digits", "mnist" or "cifar10".

    >>> floor("digits")["images"]
    360
    """
    rows = {row.pop("data_set"): row for row in _table("features-floor.csv")}
    return rows[_known(name, "floor", sorted(rows))]


def residuals(name: str) -> list[dict]:
    """Return what the analytic models left unexplained of a shipped network along its training, a row for each.

    A row has ``images`` (seen so far, with repetitions), ``images_from`` ("train" or "test"), ``model``, ``sigma``, the
    fractions ``score`` and ``denoiser``, their standard errors ``score_error`` and ``denoiser_error``, and ``points``.

    Args:
        name: "digits", "mnist", "cifar10", or "foreign": a network that nobody here trained, and columns that
            ``data/foreign.md`` explains.

    >>> row = residuals("digits")[0]
    >>> row["images"], row["images_from"], row["model"]
    (0, 'train', 'mean')
    """
    return _table(f"{_known(name, 'residuals')}-residuals.csv")


def solvers(name: str) -> list[dict]:
    """Return how far samplers ended from the end of a shipped network's flow, a row for each sampler and setting.

    A row has ``solver`` with its order, ``grid`` with its last level above 0, ``sigma_skip`` (80 is no jump), ``nfe``,
    ``rmse`` and ``stderr`` as in :class:`gausstools.convergence.SolverError`, and ``seeds``, the starting points.

    Args:
        name: "mnist", "cifar10", or "mixture": 40 Gaussians in 120 dimensions, whose denoiser is exact.

    >>> {row["nfe"] for row in solvers("mnist")} >= {5, 10, 20}
    True
    """
    return _table(f"{_known(name, 'solvers')}-solvers.csv")


def jumps(name: str) -> list[dict]:
    """Return what jumps over the first steps did to the samples of a shipped network, a row for each.

    All rows are of the same noise. A row has ``images``, ``steps_skipped`` of 18, ``sigma_skip``, ``nfe``, the Fréchet
    ``distance`` to the training images in the features of the shipped classifier and its standard error ``error``; the
    ``difference`` from no jump with ``difference_error``, as :func:`gausstools.features.frechet_difference` gives them;
    and ``rmse``, how far a pixel (of a range of 2) is from where it ends without a jump, with ``rmse_error``.

    Args:
        name: "mnist" or "cifar10".

    >>> row = jumps("cifar10")[0]
    >>> row["steps_skipped"], row["nfe"], row["difference"]
    (0, 35, 0.0)
    """
    return _table(f"{_known(name, 'jumps')}-jumps.csv")


def published(name: str) -> list[dict]:
    """Return a table that the authors of the paper published, as rows; ``data/published.md`` says what it holds.

    Args:
        name: "edm_residuals", "edm_training", "heun_fid" or "solver_fid".

    >>> published("heun_fid")[0]
    {'steps_skipped': 0, 'sigma_skip': 80.0, 'nfe': 35, 'fid': 1.959}
    """
    tables = [Path(file).stem for file in _checksums() if file.startswith("published_")]
    return _table(f"published_{_known(name, 'table', sorted(stem.removeprefix('published_') for stem in tables))}.csv")


def _known(name: str, kind: str, known: list[str] | None = None) -> str:
    known = names(kind) if known is None else known
    if name not in known:
        raise ValueError(f"gausstools ships no {kind} of {name!r}; it ships those of {', '.join(known)}")
    return name


def _table(file: str) -> list[dict]:
    with path(file).open(encoding="utf-8", newline="") as lines:
        return [{key: _kind(key)(text) for key, text in row.items()} for row in csv.DictReader(lines)]


def _kind(column: str) -> type:
    return str if column in _TEXTS else int if column in _COUNTS else float


@cache
def _checksums() -> dict[str, str]:
    lines = (_folder() / "checksums.txt").read_text(encoding="utf-8").splitlines()
    return {file: digest for digest, file in (line.split() for line in lines)}


def _folder() -> Path:
    for folder in _FOLDERS:
        if (folder / "checksums.txt").is_file():
            return folder
    raise FileNotFoundError(f"no shipped data in {' or '.join(map(str, _FOLDERS))}; install gausstools again")
