"""A progress bar on stderr, drawn once a wait has lasted more than a second."""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import rich.progress

DELAY_SECONDS = 1.0


class Progress:
    """A context manager that counts steps and draws a bar after a second, by a timer.

    Args:
        total: the number of steps.
        label: text in front of the bar.
        show: whether to draw it; by default if stderr is a terminal.
    """

    def __init__(self, total: int, label: str, show: bool | None = None) -> None:
        self.total = total
        self.label = label
        self.done = 0
        self._show = sys.stderr.isatty() if show is None else show
        self._lock = threading.Lock()
        self._timer = threading.Timer(DELAY_SECONDS, self._draw)
        self._timer.daemon = True
        self._open = False
        self._bar: rich.progress.Progress | None = None

    def __enter__(self) -> Progress:
        self._open = True
        if self._show:
            self._timer.start()
        return self

    def step(self, amount: int = 1, label: str | None = None) -> None:
        """Count ``amount`` finished steps; ``label`` is the new text in front of the bar."""
        self.done += amount
        self.label = label or self.label
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self._shown(), description=self._text())

    def _draw(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        console = Console(stderr=True, force_terminal=True)
        bar = Progress(*columns, console=console, transient=True)
        bar.add_task(self._text(), total=self.total, completed=self._shown())
        with self._lock:
            if self._open:
                bar.start()
                self._bar = bar

    def _shown(self) -> int:
        return min(self.done, self.total)

    def _text(self) -> str:
        from rich.markup import escape

        return escape(self.label)

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        with self._lock:
            self._open = False
            if self._bar is not None:
                self._bar.stop()
