"""A progress bar on stderr for a wait that has lasted more than a second; nothing before."""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

DELAY_SECONDS = 1.0


class Progress:
    """Counts steps; draws itself once the wait is long and stderr is a terminal (or ``show=True``)."""

    def __init__(self, total: int, label: str, show: bool | None = None) -> None:
        self.total = total
        self.label = label
        self.show = sys.stderr.isatty() if show is None else show
        self.done = 0
        self._began = time.monotonic()
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Progress:
        return self

    def step(self, amount: int = 1, label: str | None = None) -> None:
        """One more step is done."""
        self.done += amount
        if label is not None:
            self.label = label
        if self._bar is not None:
            self._bar.update(self._task, completed=min(self.done, self.total), description=self._text())
        elif self.show and time.monotonic() - self._began > DELAY_SECONDS:
            self._draw()

    def _draw(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        if threading.current_thread() is not threading.main_thread():
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
        self._bar.start()
        self._task = self._bar.add_task(self._text(), total=self.total, completed=min(self.done, self.total))

    def _text(self) -> str:
        from rich.markup import escape

        return escape(self.label)

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
