"""Convolutions that a time budget did not reach: which path would be the fastest, and how long it would take.

From the measurements of this run and of the store, on this machine with the same software, threads and dtype.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress

from archcost.latency.candidates import Asked, ways_of
from archcost.latency.convolutions import Sample, Task
from archcost.latency.prediction.predictor import Prediction, PredictionError, Predictor
from archcost.latency.store.fingerprint import fingerprint
from archcost.latency.store.measurement import Measurement
from archcost.latency.timing.deadline import Deadline

__all__ = ["predict_unreached"]


def predict_unreached(
    samples: Mapping[Task, Sample], asked: Asked, made: Iterable[Measurement], deadline: Deadline
) -> dict[Task, Prediction]:
    """The fastest way of each that can be predicted; those of which nothing can be said are left out.

    Of the ways that would have been timed, those count whose stated error is within the tolerance: how exact
    they are with the layer's own weights, only running them would show. To fit the law of a path takes time
    as well; a convolution of which the deadline left some paths out is left out.
    """
    mark = fingerprint().hash
    known = [*([] if asked.store is None else asked.store.all(mark)), *made]
    latest = {one.key: one for one in sorted(known, key=lambda one: one.measured_at)}
    # A time from beyond the caches predicts others of its sort alone.
    alike = [one for one in latest.values() if one.key.kind == asked.kind]
    predictors: dict[tuple[str, str], Predictor] = {}
    found: dict[Task, Prediction] = {}
    for task, sample in samples.items():
        by_layout: dict[str, list[str]] = {}
        for path, layout in ways_of(task, sample, asked)[0]:
            if _exact_enough(path, task, sample, asked):
                by_layout.setdefault(layout, []).append(path)
        best: Prediction | None = None
        for layout, paths in by_layout.items():
            state = (task.dtype, layout)
            if state not in predictors:
                predictors[state] = Predictor.fit(
                    alike, threads=asked.threads, dtype=task.dtype, layout=layout, fingerprint=mark
                )
            for path in paths:
                if deadline.passed:
                    return found
                predictors[state].why_not(task.spec, path)  # fits the law of the path
            with suppress(PredictionError):
                one = predictors[state].best(task.spec, paths)
                best = one if best is None or one.seconds < best.seconds else best
        if best is not None:
            found[task] = best
    return found


def _exact_enough(path: str, task: Task, sample: Sample, asked: Asked) -> bool:
    """PyTorch's own is what the model runs anyway."""
    from archcost.paths.registry import get

    return path == "native" or get(path).stated_error(task.spec, sample.x.dtype) <= asked.tolerance
