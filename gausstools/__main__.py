"""The command line: ``python -m gausstools COMMAND``, alone or under ``accelerate launch -m``.

A command is a function of its own name in a module of its own name in ``gausstools.commands``, imported only when it
runs, so that ``--help`` is quick.
"""

import importlib
import inspect
import sys

try:
    import typer
except ImportError:
    sys.exit("error: the command line needs typer: pip install 'gausstools[commands]'")

__all__ = ["COMMANDS", "app"]

COMMANDS = {
    "fid": "Print the Fréchet distance of samples to a data set or a folder: the FID, or that of a small classifier.",
    "report": "Write a page about a model: how Gaussian it is, where to jump and what that saves.",
    "sample": "Draw images with a network into a folder, or go on where a run stopped.",
    "stats": "Write the statistics of a data set: its mean and the leading eigenpairs of its covariance.",
    "train": "Train a denoiser on a data set, or go on where a run stopped.",
}
"""The commands, and what they do."""

PLAIN = {"add_completion": False, "pretty_exceptions_enable": False}

app = typer.Typer(help="Closed-form Gaussian models of diffusion scores.", no_args_is_help=True, **PLAIN)
"""The application."""


def _register(name: str, help_text: str) -> None:
    # The command's own application reads its options, --help among them.
    settings = {"allow_extra_args": True, "ignore_unknown_options": True}

    @app.command(name, help=help_text, context_settings=settings, add_help_option=False)
    def run(context: typer.Context) -> None:
        try:
            function = getattr(importlib.import_module(f"gausstools.commands.{name}"), name)
            own = typer.Typer(**PLAIN)
            own.command(help=inspect.getdoc(function).partition("\n\n>>> ")[0])(function)  # without the example
            command = typer.main.get_command(own)
            with command.make_context(f"python -m gausstools {name}", context.args) as given:
                command.invoke(given)
        except Exception as error:
            message = _message(error)
            if message is None:
                raise
            print(f"error: {message}", file=sys.stderr)
            raise typer.Exit(1) from error


def _message(error: Exception) -> str | None:
    """Return what was wrong with the input and what to do, or None if something else was wrong."""
    kind = type(error).__name__
    match error:
        case MemoryError() | RuntimeError() if isinstance(error, MemoryError) or "memory" in str(error):
            return f"not enough memory ({kind}: {error}); give a smaller --batch-size, or another --device"
        case EOFError() | RecursionError() | OverflowError():
            return f"a file is damaged, or a number too large ({kind}: {error}); fetch the file again, or give another"
        case ModuleNotFoundError():  # which the library did not word
            return f"{error}: pip install 'gausstools[commands,figures]'"
        case OSError(errno=int()):
            return f"{error}; see to the path, its permissions and the disk, then run again"
        case FloatingPointError() | ImportError() | OSError() | ValueError():
            return str(error)
    return None


for _name, _help in COMMANDS.items():
    _register(_name, _help)


def _main() -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # a pipe on Windows may have no σ
    app(prog_name="python -m gausstools")


if __name__ == "__main__":
    _main()
