"""What one sees while chapters run: a live table on a terminal, plain lines elsewhere."""

import time
from contextlib import AbstractContextManager
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.spinner import Spinner

SLOW_SECONDS = 90
"""What a chapter may take on two processor cores."""


class Progress(AbstractContextManager):
    """Reports what starts, what ends and in how many seconds, and what runs right now if the terminal can show it."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False, soft_wrap=True)
        self._running: dict[str, tuple[float, float | None]] = {}
        self._live = Live(get_renderable=self._table, console=self._console, refresh_per_second=4, transient=True)

    def __enter__(self) -> "Progress":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._live.stop()

    def _table(self) -> Group:
        now = time.monotonic()
        return Group(
            *(
                Spinner("dots", f"{label}  {now - begun:.0f} s" + (f" (last time {last:.0f} s)" if last else ""))
                for label, (begun, last) in self._running.items()
            )
        )

    def _say(self, text: str, style: str | None = None) -> None:
        self._console.print(text, style=style, markup=False)

    def up_to_date(self, label: str, seconds: float) -> None:
        """Nothing to do for a chapter."""
        self._say(f"  {label}: up to date (took {seconds:.0f} s)")

    def started(self, label: str, reason: str, last: float | None) -> None:
        """A chapter starts, for this reason; `last` is how long it took the last time."""
        self._running[label] = (time.monotonic(), last)
        self._say(f"  {label}: running ({reason}" + (f"; took {last:.0f} s last time)" if last else ")"))

    def finished(self, label: str, seconds: float) -> None:
        """A chapter ended well."""
        self._running.pop(label)
        self._say(f"  {label}: done in {seconds:.1f} s", style="green")
        if seconds > SLOW_SECONDS:
            self._say(
                f"  warning: {label} took {seconds:.0f} s; a chapter should take at most {SLOW_SECONDS} s on 2 cores",
                style="yellow",
            )

    def failed(self, label: str) -> None:
        """A chapter failed; the traceback follows when all are done."""
        begun, _ = self._running.pop(label)
        self._say(f"  {label}: FAILED after {time.monotonic() - begun:.1f} s", style="red")

    def damaged(self, message: str) -> None:
        """A cached run was found broken."""
        self._say(f"  warning: {message}", style="yellow")
