"""Models on disk: safetensors with metadata that say whose file it is. Nothing is unpickled."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor

__all__ = ["read", "read_settings", "write", "write_bytes"]


def write(path: str | os.PathLike, kind: str, tensors: dict[str, Tensor], settings: dict | None = None) -> None:
    """Write the tensors of a model of this kind; an interrupted call leaves the old file, or none.

    Args:
        path: the file.
        kind: name of the class, which ``read`` asks for.
        tensors: by name.
        settings: what else the model is made of, in values that JSON knows.

    Raises:
        FileNotFoundError: if the folder does not exist.
    """
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {"gausstools": kind} | ({} if settings is None else {"settings": json.dumps(settings)})
    # Not save_file, which makes a file that nobody else may read.
    write_bytes(path, safetensors.torch.save(contiguous, metadata=metadata))


def write_bytes(path: str | os.PathLike, content: bytes) -> None:
    """Write a file; an interrupted call leaves the old one, or none.

    Raises:
        FileNotFoundError: if the folder does not exist.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"cannot write {path}: the folder {path.parent} does not exist; create it first")
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def read(path: str | os.PathLike, kind: str) -> dict[str, Tensor]:
    """Return the tensors of a model of this kind, on the CPU.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is damaged, or holds something else.
    """
    with _opened(path, kind) as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)


def read_settings(path: str | os.PathLike, kind: str) -> dict:
    """Return the settings that stand beside the tensors of a model of this kind.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is damaged, holds something else, or has no settings.
    """
    with _opened(path, kind) as file:
        text = file.metadata().get("settings")
    try:
        return dict(json.loads(text))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} has no readable settings beside its tensors; expected what .save writes") from error


@contextmanager
def _opened(path: str | os.PathLike, kind: str) -> Iterator:
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            found = (file.metadata() or {}).get("gausstools")
            if found != kind:
                holds = f"a gausstools {found}" if found else "safetensors written by something else"
                raise ValueError(f"{path} holds {holds}, expected a gausstools {kind}")
            yield file
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is no readable safetensors file ({error}); expected one written by .save") from error
