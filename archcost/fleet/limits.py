"""How long a task may take until it is taken to hang: from the predictor where it knows the device."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from archcost.engine.on_paper import work_of_layer
from archcost.fleet.kept import FleetStore
from archcost.fleet.tasks import Layer, Model, Product, Step, Task
from archcost.latency.prediction.predictor import PredictionError, Predictor

__all__ = ["Limits"]

# Beside the seconds asked for: what is prepared, and a machine that others use as well.
BESIDE, _FACTOR = 60.0, 4.0
# Calls that are made whatever they take: first calls of all paths, and exact results.
_CALLS, _WHOLE_CALLS = 100, 30
# Multiply-accumulates a second of a slow device, where nothing was measured: by layer, and by whole model.
_SLOW, _WHOLE_SLOW = 1e8, 1e9


@dataclass
class Limits:
    """The limits of a run.

    Args:
        store: what was measured before.
        seconds: for measuring a layer, and a whole model.
    """

    store: FleetStore
    seconds: tuple[float, float]
    _predictors: dict[tuple[str, int, str], Predictor] = field(default_factory=dict)

    def of(self, task: Task, mark: str) -> float:
        """Seconds for a task on a device."""
        if isinstance(task, Layer):
            return BESIDE + _FACTOR * self.seconds[0] + _CALLS * self._call(task, mark)
        if isinstance(task, Step):
            return BESIDE + _FACTOR * self.seconds[0] + _CALLS * work_of_layer(task.layer).macs / _SLOW
        if isinstance(task, Product):
            return BESIDE + _FACTOR * self.seconds[0] + _CALLS * task.macs / _SLOW
        macs = self._macs.get((task.model, task.batch), 0) if isinstance(task, Model) else 0
        return 2 * BESIDE + 2 * _FACTOR * self.seconds[1] + _WHOLE_CALLS * macs / _WHOLE_SLOW

    @cached_property
    def _macs(self) -> dict[tuple[str, int], int]:
        return {key: paper["macs"] for key, paper in self.store.papers().items()}

    def _call(self, task: Layer, mark: str) -> float:
        state = (mark, task.threads, task.dtype)
        if state not in self._predictors:
            self._predictors[state] = Predictor.fit(
                self.store.all(mark), threads=task.threads, dtype=task.dtype, fingerprint=mark
            )
        try:
            return self._predictors[state].predict(task.spec, "native").seconds
        except PredictionError:
            return task.spec.macs / _SLOW
