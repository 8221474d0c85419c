"""The command line: ``python -m gausstools COMMAND``, alone or under ``accelerate launch -m``.

A command is a function of its own name in a module of its own name in ``gausstools.commands``, imported only when it
runs, so that ``--help`` is quick.
"""

import importlib
import inspect
import sys

try:
    import typer
except ImportError as error:
    raise ImportError("the command line needs typer: pip install 'gausstools[commands]'") from error

__all__ = ["COMMANDS", "app"]

COMMANDS = {
    "fid": "Print the Fréchet distance of samples to a data set or a folder: the FID, or that of a small classifier.",
    "report": "Write a page about a model: how Gaussian it is, where to jump and what that saves.",
    "sample": "Draw images with a network into a folder, or go on where a run stopped.",
    "stats": "Write the statistics of a data set: its mean and the leading eigenpairs of its covariance.",
    "train": "Train a denoiser on a data set, or go on where a run stopped.",
}
"""The commands, and what they do."""

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
"""The application."""


@app.callback()
def _gausstools() -> None:
    """Closed-form Gaussian models of diffusion scores, and what they buy."""


def _register(name: str, help_text: str) -> None:
    # The command's own application reads its options, --help among them.
    settings = {"allow_extra_args": True, "ignore_unknown_options": True}

    @app.command(name, help=help_text, context_settings=settings, add_help_option=False)
    def run(context: typer.Context) -> None:
        function = getattr(importlib.import_module(f"gausstools.commands.{name}"), name)
        command = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        command.command(help=inspect.getdoc(function).partition("\n\n>>> ")[0])(function)  # without the example
        command(context.args, prog_name=f"python -m gausstools {name}")


for _name, _help in COMMANDS.items():
    _register(_name, _help)


def _main() -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # a pipe on Windows may have no σ
    try:
        app(prog_name="python -m gausstools")
    except (ImportError, OSError, ValueError) as error:
        # These say what to do; where they come from says nothing to a user.
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    _main()
