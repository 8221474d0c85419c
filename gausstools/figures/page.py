"""The page that ``python -m gausstools report`` writes: one HTML file with its figures inside."""

import base64
import html
import io
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import date

import matplotlib
import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from torch import Tensor

import gausstools as gt
from gausstools.compare import Residual
from gausstools.convergence import SolverError
from gausstools.figures.plots import image_grid
from gausstools.figures.style import COLORS, set_style
from gausstools.samplers import declared
from gausstools.teleportation import Skip

__all__ = ["SHOWN", "Findings", "page"]

SHOWN = 8
"""Images that are drawn side by side."""


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
    images: int | None
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
    with matplotlib.rc_context():
        set_style()
        sections = [
            _recommendation(findings),
            _section(
                "Samples, with and without the jump",
                "Each column starts from the same noise. The first two rows are solved by Heun’s method; with half as "
                f"many steps a pixel differs by {findings.reference_error:.1g}. The third needs no network.",
                _drawn(_samples, findings, 2.9),
                f"Top: the network. Middle: the Gaussian down to σ = {findings.skip.sigma:.3g}, then the network. "
                "Bottom: the Gaussian alone.",
            ),
            _section(
                "How Gaussian is this network?",
                "The fraction of the network’s score that a model leaves unexplained, at noised images of the data. "
                "Where the blue curve is far below 1, the closed form may answer in the network’s place.",
                _drawn(_residuals, findings),
                f"{findings.points:,} noised images at each level; bars of one standard error. Dotted: the level that "
                "is jumped to.",
                _table(
                    ["σ", "isotropic", "Gaussian"],
                    [
                        [f"{sigma:g}", *(_with_error(row.score, row.score_error) for row in rows)]
                        for sigma, rows in _by_sigma(findings.residuals).items()
                    ],
                ),
            ),
            _section(
                "Where to jump, and why",
                "A jump to σ replaces the network above σ by the Gaussian. The curve predicts, from the answers to a "
                "few noised samples, how far that moves the final image.",
                _drawn(_skip, findings),
                f"Predicted root-mean-square change of a pixel (pixels span 2). Dashed: the tolerance, "
                f"{findings.skip.tolerance:g}. Point: measured, over {findings.seeds} images.",
            ),
            _section(
                "Which sampler, with how many calls?",
                "Distance to the converged samples from the same noise. With the jump, all calls are spent below it; "
                "what remains with many calls is the jump’s own error.",
                _drawn(_errors, findings, 3.6),
                f"Root-mean-square error of a pixel, mean over {findings.seeds} images, on the better of two grids: "
                f"Karras to 0.002, uniform in ln σ to 0.05. Solid: from σ = {_top(findings):g}. Dashed: after the "
                "jump. Grey: the jump’s own error.",
                _error_table(findings),
            ),
            _section(
                "The spectrum of the data",
                "Variances along the principal components: all that the Gaussian knows beside the mean. Components "
                "above σ² are what the image shows at noise level σ.",
                _drawn(_spectrum, findings),
                f"Total variance {float(findings.gaussian.total_variance):.4g} in {findings.gaussian.dim:,} entries.",
            ),
        ]
    title = f"How Gaussian is {findings.model}?"
    machine_readable = json.dumps(_numbers(findings)).replace("<", "\\u003c")
    return _PAGE.format(
        title=html.escape(title),
        lead=html.escape(_lead(findings)),
        sections="\n".join(sections),
        foot=html.escape(
            f"{date.today():%d %B %Y}, gausstools {gt.__version__}, {findings.machine}, {findings.seconds:.0f} s."
        ),
        numbers=machine_readable,
    )


def _lead(findings: Findings) -> str:
    source = "given statistics" if findings.images is None else f"{findings.images:,} images"
    shape = "×".join(map(str, findings.gaussian.event_shape))
    return (
        f"Model {findings.model}; data {findings.data}, {shape}; Gaussian of {source}, rank {findings.gaussian.rank}."
    )


def _recommendation(findings: Findings) -> str:
    calls = declared(gt.samplers.heun).calls(gt.karras_sigmas(findings.steps))
    share = findings.nfe_saved_heun / calls
    if findings.steps_skipped == 0:
        text = (
            f"No jump within a tolerance of {findings.skip.tolerance:g} skips a step of the {findings.steps}-step "
            "grid. Start sampling at the top, or allow a larger tolerance."
        )
    else:
        text = (
            f"Jump to σ = {findings.skip.sigma:.3g}. That skips {findings.steps_skipped} of {findings.steps} steps of "
            f"the Karras grid: {findings.nfe_saved_heun} of {calls} network calls with Heun’s method ({share:.0%}), "
            f"and moves a pixel by {_with_error(*findings.jump_error)} of a range of 2."
        )
        if findings.jump_error[0] - 2 * findings.jump_error[1] > findings.skip.tolerance:
            text = f"The prediction fails: this jump exceeds the tolerance of {findings.skip.tolerance:g}. {text}"
    if findings.misfit:
        text = f"Something does not fit: {findings.misfit}. {text}"
    return f'<p class="result">{html.escape(text)}</p>'


def _spectrum(figure: Figure, findings: Findings) -> None:
    ax = figure.subplots()
    variances = findings.gaussian.variances
    variances = variances[variances > 1e-9 * variances[:1]]  # below are directions without data, up to rounding
    ax.loglog(range(1, len(variances) + 1), variances, color=COLORS["gaussian"])
    if findings.gaussian.rank < findings.gaussian.dim:
        ax.axhline(float(findings.gaussian.tail), color=COLORS["noise"], linestyle=":", label="all the others")
        ax.legend()
    ax.set(xlabel="component", ylabel="variance λ")


def _residuals(figure: Figure, findings: Findings) -> None:
    ax = figure.subplots()
    for model, color in (("isotropic", COLORS["noise"]), ("gaussian", COLORS["gaussian"])):
        rows = [row for row in findings.residuals if row.model == model]
        ax.errorbar(
            [row.sigma for row in rows],
            [row.unexplained.score for row in rows],
            yerr=[row.unexplained.score_error for row in rows],
            marker="o",
            markersize=3,
            color=color,
            label={"isotropic": "isotropic Gaussian", "gaussian": "Gaussian"}[model],
        )
    ax.axvline(findings.skip.sigma, color=COLORS["data"], linestyle=":", linewidth=1)
    ax.set(xscale="log", yscale="log", xlabel="noise level σ", ylabel="unexplained fraction")
    ax.legend()


def _skip(figure: Figure, findings: Findings) -> None:
    ax, skip = figure.subplots(), findings.skip
    ax.plot(skip.sigmas[1:], skip.predicted[1:], "-o", markersize=3, color=COLORS["gaussian"], label="predicted")
    if findings.steps_skipped > 0:
        change, error = findings.jump_error
        ax.errorbar([skip.sigma], [change], yerr=[error], fmt="s", color=COLORS["measured"], label="measured")
    ax.axhline(skip.tolerance, color=COLORS["noise"], linestyle="--", linewidth=1)
    ax.axvline(skip.sigma, color=COLORS["data"], linestyle=":", linewidth=1)
    ax.set(xscale="log", yscale="log", xlabel="jump to noise level σ", ylabel="change of a pixel")
    low, high = ax.get_xlim()
    ticks = [tick for tick in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50) if low <= tick <= high]
    if ticks:
        ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        ax.set_xticks([], minor=True)
    ax.legend()


def _samples(figure: Figure, findings: Findings) -> None:
    ax = figure.subplots()
    shown = findings.samples[:, :SHOWN]
    image_grid(ax, shown.flatten(0, 1), columns=shown.shape[1])


def _errors(figure: Figure, findings: Findings) -> None:
    ax = figure.subplots()
    colors = plt.rcParams["axes.prop_cycle"].by_key()["color"]
    for color, solver in zip(colors, dict.fromkeys(row.solver for row in findings.errors), strict=False):
        for skip, line in ((None, "-"), (findings.skip.sigma, "--")):
            rows = [row for row in findings.errors if row.solver == solver and row.sigma_skip == skip]
            if rows:
                label = solver.replace("_", " ") if skip is None else None
                nfe, rmse = [row.nfe for row in rows], [row.rmse for row in rows]
                ax.plot(nfe, rmse, line, marker="o", markersize=3, color=color, label=label)
    if findings.jump_error[0] > 0:
        ax.axhline(findings.jump_error[0], color=COLORS["noise"], linewidth=1)
    ax.set(xscale="log", yscale="log", xlabel="network calls an image (NFE)", ylabel="error of a pixel")
    ticks = sorted({row.nfe for row in findings.errors if row.solver != "heun"})
    ax.set_xticks(ticks, [str(tick) for tick in ticks], minor=False)
    ax.minorticks_off()
    ax.legend(ncols=2, fontsize="small")


def _error_table(findings: Findings) -> str:
    nfes = sorted({row.nfe for row in findings.errors})
    kinds = dict.fromkeys((row.solver, row.sigma_skip) for row in findings.errors)
    found = {(row.solver, row.sigma_skip, row.nfe): row for row in findings.errors}
    rows = []
    for solver, skip in kinds:
        cells = [found.get((solver, skip, nfe)) for nfe in nfes]
        name = solver.replace("_", " ") + ("" if skip is None else ", jump")
        rows.append([name, *("" if cell is None else f"{cell.rmse:.4f}" for cell in cells)])
    return _table(["sampler \\ NFE", *map(str, nfes)], rows)


def _by_sigma(residuals: list[Residual]) -> dict[float, list]:
    rows: dict[float, list] = {}
    for row in residuals:
        rows.setdefault(row.sigma, []).append(row.unexplained)
    return rows


def _with_error(value: float, error: float) -> str:
    return f"{value:.2g} ± {error:.1g}"


def _top(findings: Findings) -> float:
    return float(findings.skip.sigmas[0])


def _drawn(draw: Callable, findings: Findings, height: float = 3.2) -> str:
    figure = plt.figure(figsize=(7, height))
    try:
        draw(figure, findings)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png")
    finally:
        plt.close(figure)
    return base64.b64encode(buffer.getvalue()).decode()


def _section(title: str, text: str, picture: str, caption: str, table: str = "") -> str:
    details = f"<details><summary>The numbers</summary>{table}</details>" if table else ""
    return (
        f"<section><h2>{html.escape(title)}</h2><p>{html.escape(text)}</p><figure>"
        f'<img src="data:image/png;base64,{picture}" alt="{html.escape(caption, quote=True)}">'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>{details}</section>"
    )


def _table(head: list[str], rows: list[list[str]]) -> str:
    cells = "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in head)
    body = "".join(
        f'<tr><th scope="row">{html.escape(first)}</th>'
        + "".join(f"<td>{html.escape(cell)}</td>" for cell in rest)
        + "</tr>"
        for first, *rest in rows
    )
    return f'<div class="wide"><table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table></div>'


def _numbers(findings: Findings) -> dict:
    return {
        "model": findings.model,
        "data": findings.data,
        "sigma_skip": findings.skip.sigma,
        "tolerance": findings.skip.tolerance,
        "jump_error": findings.jump_error,
        "reference_error": findings.reference_error,
        "steps_skipped": findings.steps_skipped,
        "nfe_saved_heun": findings.nfe_saved_heun,
        "residuals": [
            {"model": row.model, "sigma": row.sigma} | row.unexplained._asdict() for row in findings.residuals
        ],
        "errors": [asdict(row) for row in findings.errors],
    }


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark;
  --ground: #ffffff; --ink: #1d2129; --quiet: #5a6270; --line: #d5d9e0; --mark: #0173b2; }}
@media (prefers-color-scheme: dark) {{
  :root {{ --ground: #14161a; --ink: #e8eaee; --quiet: #a5adba; --line: #363c47; --mark: #56b4e9; }}
}}
body {{ margin: 0 auto; padding: 1.5rem 1rem 3rem; max-width: 46rem; background: var(--ground); color: var(--ink);
  font: 1rem/1.6 system-ui, sans-serif; }}
h1 {{ font-size: 1.7rem; line-height: 1.25; margin: 0 0 .3rem; overflow-wrap: anywhere; }}
h2 {{ font-size: 1.2rem; margin: 2.4rem 0 .4rem; }}
.lead, figcaption, footer {{ color: var(--quiet); font-size: .9rem; }}
.result {{ border-left: .25rem solid var(--mark); padding: .2rem 0 .2rem 1rem; font-size: 1.1rem; }}
figure {{ margin: 1rem 0; }}
img {{ width: 100%; background: #fff; border-radius: .25rem; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; margin: .6rem 0; }}
th, td {{ padding: .2rem .7rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }}
th[scope="row"], th:first-child {{ text-align: left; }}
summary {{ cursor: pointer; }}
</style>
</head>
<body>
<main>
<h1>{title}</h1>
<p class="lead">{lead}</p>
{sections}
</main>
<footer><p>{foot}</p></footer>
<script type="application/json" id="findings">{numbers}</script>
</body>
</html>
"""
