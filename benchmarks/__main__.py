"""Measure everything, write ``results.md`` and ``growth.png`` beside this file: a few minutes on two quiet cores."""

import os
import time
from pathlib import Path

from benchmarks import questions, report
from benchmarks.measure import Machine


def main() -> None:
    """Measure, telling how far it is. Misses are marked in the table; they are no failure."""
    begun, load = time.monotonic(), os.getloadavg()[0]
    here = Path(__file__).parent

    def say(text: str) -> None:
        print(f"{time.monotonic() - begun:4.0f} s  {text}", flush=True)

    say("memory of point clouds, each in a process of its own")
    measured = list(questions.of_memory())
    machine, data = Machine(), questions.images(questions.IMAGES)
    for part in (
        questions.of_gaussian(machine),
        questions.of_mixtures(machine),
        questions.of_cloud(machine, data),
        questions.of_fit(data),
    ):
        for found in part:
            say(found[0])
            measured.append(found)
    say("growth with N and D")
    report.draw(*questions.growth(machine, data), here / "growth.png")
    rows = [found for found in measured if isinstance(found, questions.Row)]
    bounds = [found for found in measured if isinstance(found, questions.Bound)]
    text = report.table(rows, bounds, machine, load)
    (here / "results.md").write_text(text, "utf-8")
    say("done: benchmarks/results.md, benchmarks/growth.png\n")
    print(text)


if __name__ == "__main__":
    main()
