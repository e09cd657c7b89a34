"""Time that a stage may take."""

from __future__ import annotations

import time

__all__ = ["Allowance"]


class Allowance:
    """Seconds of this thread's processor time: a busy machine chooses as an idle one does."""

    def __init__(self, seconds: float) -> None:
        self.until = time.thread_time() + seconds

    @property
    def passed(self) -> bool:
        return time.thread_time() >= self.until

    def within(self, seconds: float) -> Allowance:
        """An allowance inside this one."""
        return Allowance(min(seconds, self.until - time.thread_time()))
