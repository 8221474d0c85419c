"""Models on disk: safetensors with metadata that say whose file it is. Nothing is unpickled."""

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor, nn

from gausstools.denoiser import check_values, working_dtype

__all__ = ["check_weights", "fill", "read", "read_settings", "write", "write_bytes"]


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
    content = safetensors.torch.save(contiguous, metadata=metadata)
    # safetensors orders the metadata by chance. Here the same model is the same bytes.
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8:end]) | {"__metadata__": metadata}, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    write_bytes(path, len(header).to_bytes(8, "little"), header, memoryview(content)[end:])


def write_bytes(path: str | os.PathLike, *parts: bytes | memoryview) -> None:
    """Write a file, of one part or more; an interrupted call leaves the old one, or none, and of two at once one wins.

    Until it is whole it is named ``.NAME.PID.TOKEN``, and a process that is killed leaves that.

    Raises:
        FileNotFoundError: if the folder does not exist.
        OSError: with the name of the file, if there is no room for it, for example.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"cannot write {path}: the folder {path.parent} does not exist; create it first")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        with temporary.open("xb") as file:
            file.writelines(parts)
        os.replace(temporary, path)
    except OSError as error:  # which names the other file, or none where a disk is full
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def read(path: str | os.PathLike, kind: str) -> dict[str, Tensor]:
    """Return the tensors of a model of this kind, on the CPU.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is damaged, or holds something else.
    """
    with _opened(path, kind) as file:
        # Copied, because a tensor that maps the file would change with it.
        return {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 (not a mapping)


def read_settings(path: str | os.PathLike, kind: str) -> dict:
    """Return the settings that stand beside the tensors of a model of this kind.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is damaged, holds something else, or has no settings.
    """
    with _opened(path, kind) as file:
        text = file.metadata().get("settings")
    try:
        settings = json.loads(text)
    except (TypeError, ValueError, RecursionError):
        settings = None
    if not isinstance(settings, dict):
        raise ValueError(f"{path} has no readable settings beside its tensors; expected what .save writes")
    return settings


def fill(network: nn.Module, weights: dict[str, Tensor]) -> None:
    """Give a network the weights of a file, in its own dtypes; it may lie on the meta device, and ends on theirs.

    Raises:
        RuntimeError: if names or shapes are not those of the network.
        ValueError: if a weight holds NaN or infinity.
    """
    own = network.state_dict()
    cast = {name: value.to(own[name].dtype) if name in own else value for name, value in weights.items()}
    network.load_state_dict(cast, assign=True)
    check_weights(network)


def check_weights(network: nn.Module, whose: str = "its") -> None:
    """Refuse a network of which a weight is NaN or infinite, since so would be its answers; raises ValueError."""
    for name, value in network.state_dict().items():
        if not value.is_meta:
            check_values(value.to(working_dtype(value.dtype)), f"{whose} weight {name}")


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
