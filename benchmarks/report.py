"""What was measured, as a table in Markdown and a figure."""

import os
import platform
import time
from collections.abc import Iterable
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from benchmarks.measure import SIDE, Machine, Timing
from benchmarks.questions import BATCH, DIM, Bound, Row
from gausstools.figures.style import COLORS, set_style

NOTHING = "–"


def table(rows: Iterable[Row], bounds: Iterable[Bound], machine: Machine, load: float) -> str:
    """Return the results as Markdown, every limit marked "ok" or "over"."""
    lines = [
        f"Measured on {_processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}, {time.strftime('%Y-%m-%d')}; load average before the run {load:.2f}. "
        f"Product of two square matrices of side {SIDE}: {machine.rate(torch.float32) / 1e9:.0f}·10⁹ operations per "
        f"second in float32, {machine.rate(torch.float64) / 1e9:.0f}·10⁹ in float64. "
        f"The models have {DIM} dimensions and are asked in float32, for a batch of {BATCH}.",
        "",
        "| question | time, ms | floor, ms | time / floor | at most | | times faster than written out | at least | |",
        "|---|--:|--:|--:|--:|---|--:|--:|---|",
    ]
    for row in rows:
        cells = [
            row.question,
            _milliseconds(row.taken),
            _milliseconds(row.floor),
            _number(row.times_floor, ".2f"),
            _number(row.allowed, "g"),
            _verdict(row.times_floor, row.allowed),
            _number(row.speedup, ".3g" if row.speedup and row.speedup < 100 else ".0f"),
            _number(row.required, "g"),
            _verdict(row.required, row.speedup),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "| beside time | measured | at most | |", "|---|--:|--:|---|"]
    for bound in bounds:
        value, limit = (
            f"{number:,.3g}" if number < 1000 else f"{number:,.0f}" for number in (bound.value, bound.limit)
        )
        cells = [bound.quantity, f"{value} {bound.unit}", f"{limit} {bound.unit}", _verdict(bound.value, bound.limit)]
        lines.append(f"| {' | '.join(cell.strip() for cell in cells)} |")
    return "\n".join([*lines, ""])


def draw(clouds: dict[int, Timing], gaussians: dict[int, Timing], path: Path) -> None:
    """Draw the times against the number of points and the dimensions, with their floors."""
    set_style()
    figure, axes = plt.subplots(1, 2)
    for ax, timings, color, title, label in (
        (axes[0], clouds, "data", f"Point cloud, D = {DIM}", "points N"),
        (axes[1], gaussians, "gaussian", "Gaussian, full rank", "dimensions D"),
    ):
        floors, times = ([1e3 * value for value in part] for part in list(zip(*timings.values(), strict=True))[1::-1])
        ax.loglog(timings.keys(), times, "o-", color=COLORS[color], label="denoise")
        ax.loglog(timings.keys(), floors, "--", color=COLORS["noise"], label="floor")
        ax.set(title=title, xlabel=label, ylabel=f"ms per batch of {BATCH}")
        ax.set_xticks(list(timings), [f"{size:,}" for size in timings], rotation=45)
        ax.minorticks_off()
        ax.legend()
    figure.savefig(path)


def _verdict(low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return ""
    return "ok" if low <= high else "**over**"


def _milliseconds(seconds: float | None) -> str:
    if seconds is None:
        return NOTHING
    return f"{1e3 * seconds:,.0f}" if seconds > 0.1 else f"{1e3 * seconds:.1f}"


def _number(value: float | None, form: str) -> str:
    return NOTHING if value is None else format(value, form)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
