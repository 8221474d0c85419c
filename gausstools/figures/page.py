"""The page that ``python -m gausstools report`` writes: one HTML file with its figures inside.

What it says stands in the template ``page.html`` beside this module.
"""

import base64
import io
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

import jinja2
import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator
from torch import Tensor

import gausstools as gt
from gausstools.convergence import SolverError
from gausstools.figures.plots import image_grid
from gausstools.figures.style import COLORS, set_style
from gausstools.samplers import declared
from gausstools.teleportation import Skip

__all__ = ["Findings", "page"]

SHOWN = 8  # images that are drawn side by side


@dataclass(frozen=True)
class Findings:
    """What was measured about a model: all that stands on the page.

    Args:
        model, data: what they were called.
        images: how many images the statistics are of; None if they were given.
        gaussian: the statistics.
        residuals: what the isotropic Gaussian and the Gaussian leave unexplained, by noise level.
        points: noised images behind each residual.
        skip: the noise level to jump to, and the curve that says why.
        jump_error: root mean square, per entry, of what the jump alone changes in the samples, and its standard error.
        reference_error: how far from convergence the reference samples may be, in the same unit.
        errors: of the samplers, with and without the jump.
        seeds: images behind each of these.
        steps_skipped, steps: of the Karras grid, by the jump.
        nfe_saved_heun: network calls that this saves with Heun's method.
        samples: ``(3, seeds, *event)``: from the same noise by the network alone, by the jump and then the network, and
            by the Gaussian alone.
        seconds: that the measurements took.
        machine: on what.
    """

    model: str
    data: str
    images: int
    gaussian: gt.Gaussian
    residuals: list[gt.compare.Residual]
    points: int
    skip: Skip
    jump_error: tuple[float, float]
    reference_error: float
    errors: list[SolverError]
    seeds: int
    steps_skipped: int
    steps: int
    nfe_saved_heun: int
    samples: Tensor
    seconds: float
    machine: str

    @property
    def by_solver(self) -> dict[tuple[str, float | None], dict[int, float]]:
        """The samplers' errors, by name and level that is jumped to, then by network calls."""
        found: dict[tuple[str, float | None], dict[int, float]] = {}
        for row in self.errors:
            found.setdefault((row.solver, row.sigma_skip), {})[row.nfe] = row.rmse
        return found

    @property
    def misfit(self) -> str:
        """Where and why the network and the Gaussian cannot both be right; empty if nothing says so."""
        rows = [row for row in self.residuals if row.model == "gaussian" and row.unexplained.misfit]
        if not rows:
            return ""
        levels = ", ".join(f"{row.sigma:g}" for row in rows)
        return f"{rows[-1].unexplained.misfit} (so at σ = {levels})"


def page(findings: Findings) -> str:
    """Return the whole page as HTML, with its figures and numbers inside.

    Args:
        findings: what was measured.
    """
    pictures = {}
    with matplotlib.rc_context():
        set_style()
        for draw, height in ((_samples, 2.9), (_residuals, 3.2), (_skip, 3.2), (_errors, 3.6), (_spectrum, 3.2)):
            figure, buffer = Figure(figsize=(7, height)), io.BytesIO()
            draw(figure.subplots(), findings)
            figure.savefig(buffer, format="png")
            pictures[draw.__name__.removeprefix("_")] = base64.b64encode(buffer.getvalue()).decode()
    template = Path(__file__).with_name("page.html").read_text("utf-8")
    return jinja2.Template(
        template, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    ).render(
        findings=findings,
        pictures=pictures,
        heun_calls=declared(gt.samplers.heun).calls(gt.karras_sigmas(findings.steps)),
        numbers=_numbers(findings),
        today=f"{date.today():%d %B %Y}",
        version=gt.__version__,
    )


def _samples(ax: Axes, findings: Findings) -> None:
    shown = findings.samples[:, :SHOWN]
    image_grid(ax, shown.flatten(0, 1), columns=shown.shape[1])


def _residuals(ax: Axes, findings: Findings) -> None:
    for model, label, color in (("isotropic", "isotropic Gaussian", "noise"), ("gaussian", "Gaussian", "gaussian")):
        rows = [(row.sigma, row.unexplained) for row in findings.residuals if row.model == model]
        sigmas, scores, errors = zip(*((sigma, found.score, found.score_error) for sigma, found in rows), strict=True)
        ax.errorbar(sigmas, scores, errors, marker="o", markersize=3, color=COLORS[color], label=label)
    ax.axvline(findings.skip.sigma, color=COLORS["data"], linestyle=":", linewidth=1)
    ax.set(xscale="log", yscale="log", xlabel="noise level σ", ylabel="unexplained fraction")
    ax.legend()


def _skip(ax: Axes, findings: Findings) -> None:
    skip = findings.skip
    ax.plot(skip.sigmas[1:], skip.predicted[1:], "-o", markersize=3, color=COLORS["gaussian"], label="predicted")
    if findings.steps_skipped > 0:
        change, error = findings.jump_error
        ax.errorbar([skip.sigma], [change], yerr=[error], fmt="s", color=COLORS["measured"], label="measured")
    ax.axhline(skip.tolerance, color=COLORS["noise"], linestyle="--", linewidth=1)
    ax.axvline(skip.sigma, color=COLORS["data"], linestyle=":", linewidth=1)
    ax.set(xscale="log", yscale="log", xlabel="jump to noise level σ", ylabel="change of a pixel")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_minor_locator(NullLocator())
    ax.legend()


def _errors(ax: Axes, findings: Findings) -> None:
    names = list(dict.fromkeys(row.solver for row in findings.errors))
    for (name, skip), errors in findings.by_solver.items():
        style = {"linestyle": "-", "label": name.replace("_", " ")} if skip is None else {"linestyle": "--"}
        ax.plot(errors.keys(), errors.values(), marker="o", markersize=3, color=f"C{names.index(name)}", **style)
    if findings.jump_error[0] > 0:
        ax.axhline(findings.jump_error[0], color=COLORS["noise"], linewidth=1)
    ax.set(xscale="log", yscale="log", xlabel="network calls an image (NFE)", ylabel="error of a pixel")
    ticks = sorted({row.nfe for row in findings.errors if row.solver != "heun"})
    ax.set_xticks(ticks, [str(tick) for tick in ticks])
    ax.minorticks_off()
    ax.legend(ncols=2, fontsize="small")


def _spectrum(ax: Axes, findings: Findings) -> None:
    gaussian, variances = findings.gaussian, findings.gaussian.variances
    variances = variances[variances > 1e-9 * variances[:1]]  # below are directions without data, up to rounding
    ax.loglog(range(1, len(variances) + 1), variances, color=COLORS["gaussian"])
    if gaussian.rank < gaussian.dim:
        ax.axhline(float(gaussian.tail), color=COLORS["noise"], linestyle=":", label="all the others")
        ax.legend()
    ax.set(xlabel="component", ylabel="variance λ")


def _numbers(findings: Findings) -> dict:
    same = ("model", "data", "jump_error", "reference_error", "steps_skipped", "nfe_saved_heun")
    return {name: getattr(findings, name) for name in same} | {
        "sigma_skip": findings.skip.sigma,
        "tolerance": findings.skip.tolerance,
        "residuals": [
            {"model": row.model, "sigma": row.sigma} | row.unexplained._asdict() for row in findings.residuals
        ],
        "errors": [asdict(row) for row in findings.errors],
    }
