"""diffusers, imported where it is used: that takes seconds, and not everybody has it."""

import warnings
from types import ModuleType

__all__ = ["import_diffusers"]


def import_diffusers(purpose: str) -> ModuleType:
    """Return diffusers.

    Args:
        purpose: what it is needed for, as the beginning of the error's sentence.

    Raises:
        ImportError: without diffusers.
    """
    with warnings.catch_warnings():
        # In a notebook without ipywidgets, its progress bars say that they will be plain; nothing here shows any.
        warnings.filterwarnings("ignore", message="IProgress not found")
        try:
            import diffusers
        except ImportError as error:
            lacking, extra = (", which lacks Pillow", "data") if error.name == "PIL" else ("", "networks")
            raise ImportError(f"{purpose} diffusers{lacking}: pip install 'gausstools[{extra}]'") from error
    return diffusers
