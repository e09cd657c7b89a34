"""Predictions for convolutions that a time budget did not reach: the fastest path, and its time.

They come from the measurements of this run and of the store, with the same machine, software, threads and
dtype.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress

from archcost.latency.candidates import TimingOptions, candidates_of
from archcost.latency.convolutions import ConvTask, ConvTensors
from archcost.latency.prediction.predictor import Prediction, PredictionError, Predictor
from archcost.latency.store.fingerprint import fingerprint
from archcost.latency.store.measurement import Measurement
from archcost.latency.timing.deadline import Deadline

__all__ = ["predict_unreached"]


def predict_unreached(
    samples: Mapping[ConvTask, ConvTensors],
    options: TimingOptions,
    made: Iterable[Measurement],
    deadline: Deadline,
) -> dict[ConvTask, Prediction]:
    """The fastest candidate of each convolution; those for which nothing can be predicted are left out.

    A candidate counts where its path's stated error is within the tolerance; its error with the layer's own
    weights is not looked at, because that would take a run. Fitting the law of a path takes time as well: a
    convolution some of whose paths the deadline left out is left out.
    """
    mark = fingerprint().hash
    known = [*([] if options.store is None else options.store.all(mark)), *made]
    latest = {one.key: one for one in sorted(known, key=lambda one: one.measured_at)}
    # Times from beyond the caches predict only such times.
    alike = [one for one in latest.values() if one.key.kind == options.kind]
    predictors: dict[tuple[str, str], Predictor] = {}
    found: dict[ConvTask, Prediction] = {}
    for task, tensors in samples.items():
        by_layout: dict[str, list[str]] = {}
        for path, layout in candidates_of(task, tensors, options)[0]:
            if _exact_enough(path, task, tensors, options):
                by_layout.setdefault(layout, []).append(path)
        best: Prediction | None = None
        for layout, paths in by_layout.items():
            state = (task.dtype, layout)
            if state not in predictors:
                predictors[state] = Predictor.fit(
                    alike, threads=options.threads, dtype=task.dtype, layout=layout, fingerprint=mark
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


def _exact_enough(path: str, task: ConvTask, tensors: ConvTensors, options: TimingOptions) -> bool:
    """Whether the path's stated error is within the tolerance; PyTorch's own always counts."""
    from archcost.paths.registry import get

    return path == "native" or get(path).stated_error(task.spec, tensors.x.dtype) <= options.tolerance
