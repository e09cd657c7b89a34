"""A clock that the test moves: what runs says how long it takes, and nothing waits."""

from archcost.latency.timing import context, deadline, engine, stopwatch
from archcost.latency.timing.stopwatch import CpuStopwatch


class Machine:
    """Whose time passes only when something runs on it; a busy one takes twice as long by the wall clock."""

    def __init__(self, monkeypatch):
        self.now = self.cpu = 0.0
        self.busy = False
        self.patch = monkeypatch.setattr
        self.patch(deadline, "clock", lambda: self.now)
        self.patch(stopwatch, "read", lambda _: stopwatch.Reading(self._ns(self.now), self._ns(self.cpu), 0))
        self.patch(context, "_stopwatch", lambda *_: self.stopwatch())
        self.patch(engine, "time", self)

    def work(self, seconds):
        self.cpu += seconds
        self.now += seconds * (2 if self.busy else 1)

    def takes(self, owner, name, seconds):
        """That function, taking so long."""
        self.patch(owner, name, self.slower(getattr(owner, name), seconds))

    def slower(self, real, seconds):
        def slow(*args, **options):
            self.work(seconds)
            return real(*args, **options)

        return slow

    def stopwatch(self):
        return CpuStopwatch(cpu=lambda: self._ns(self.cpu), wall=lambda: self._ns(self.now))

    def __deepcopy__(self, memo):
        return self

    def thread_time(self):
        return self.cpu

    @staticmethod
    def _ns(seconds):
        return round(seconds * 1e9)
