"""Models on disk: safetensors with a line of metadata that says whose file it is. Nothing is unpickled."""

import os
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor

__all__ = ["read", "write"]


def write(path: str | os.PathLike, kind: str, tensors: dict[str, Tensor]) -> None:
    """Write the tensors of a model of this kind; an interrupted call leaves the old file, or none.

    Raises:
        FileNotFoundError: if the folder does not exist.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"cannot write {path}: the folder {path.parent} does not exist; create it first")
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        # Not save_file, which makes a file that nobody else may read.
        temporary.write_bytes(safetensors.torch.save(contiguous, metadata={"gausstools": kind}))
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
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            found = (file.metadata() or {}).get("gausstools")
            if found != kind:
                holds = f"a gausstools {found}" if found else "safetensors written by something else"
                raise ValueError(f"{path} holds {holds}, expected a gausstools {kind}")
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is no readable safetensors file ({error}); expected one written by .save") from error
