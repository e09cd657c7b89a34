"""Turns: one analysis at a time, and Ctrl-C takes effect only where the model's own code runs.

While its weights are replaced by tensors on `meta`, no second thread may trace the model; and a
KeyboardInterrupt during restoring would leave it half restored.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

_TURN = threading.RLock()

this_thread = threading.local()
"""``this_thread.recorder`` is the recorder at work in this thread, where one is."""


class Interrupts:
    """The SIGINT handler of one analysis: it delays an interrupt until the model's own code runs."""

    def __init__(self) -> None:
        self.before: Callable[[int, FrameType | None], object] = signal.default_int_handler
        self.harmless = False
        self.waiting: tuple[int, FrameType | None] | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if not self.harmless:
            self.waiting = (number, frame)
            return
        self.harmless = False
        self.before(number, frame)  # raises KeyboardInterrupt, as a rule
        self.harmless = True

    @contextlib.contextmanager
    def let_through(self) -> Iterator[None]:
        """A context around the model's own code, in which an interrupt takes effect at once."""
        self.harmless = True
        try:
            if self.waiting is not None:
                number, frame = self.waiting
                self.waiting = None
                self(number, frame)
            yield
        finally:
            self.harmless = False


@contextlib.contextmanager
def my_turn() -> Iterator[Interrupts]:
    """A context that no two threads enter at once, in which Ctrl-C is delayed (see `Interrupts`)."""
    with _TURN:
        interrupts = Interrupts()
        # Only the main thread receives signals, and only a handler in Python can be held back.
        main = threading.current_thread() is threading.main_thread()
        before = signal.getsignal(signal.SIGINT) if main else None
        if not callable(before):
            yield interrupts
            return
        interrupts.before = before
        signal.signal(signal.SIGINT, interrupts)
        try:
            yield interrupts
        finally:
            signal.signal(signal.SIGINT, before)
            if interrupts.waiting is not None:
                before(*interrupts.waiting)
