"""The columns of `Measured`: for a convolution call, and for a time of a path."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from archcost.latency.paths import is_rough
from archcost.latency.store.listing import MEASUREMENT_COLUMNS
from archcost.report.columns import Numbers, milliseconds, number, words, yes
from archcost.report.document import Column, Get
from archcost.report.units import bytes_text, error_text, percent_text, ratio_text, si_text
from archcost.report.values import Cell
from archcost.spec import ConvSpec

if TYPE_CHECKING:
    from archcost.latency.layers import LayerTime
    from archcost.latency.prediction.predictor import Prediction
    from archcost.latency.store.measurement import Measurement

__all__ = [
    *("DEFAULT_LAYER_COLUMNS", "DEFAULT_PATH_COLUMNS", "DEFAULT_PREDICTED_COLUMNS"),
    *("LAYER_COLUMNS", "PATH_COLUMNS", "predicted_columns"),
]


def _of_spec(show: Callable[[ConvSpec], str]) -> Callable[[LayerTime], str | None]:
    return lambda layer: None if layer.spec is None else show(layer.spec)


def _percent(layer: LayerTime) -> float | None:
    return None if layer.roofline_share is None else 100 * layer.roofline_share


LAYER_COLUMNS: tuple[Column[LayerTime], ...] = (
    words("name", "Layer", "Name of the module that made the call, as in named_modules()", keep=100),
    words("type", "Type", "Class of the module"),
    number("call", "Call", "Number of the module's call in a pass, from 0", str, dtype="int64"),
    words(
        "convolution",
        "Convolution",
        "Channels, kernel, stride and input size of the convolution",
        _of_spec(lambda spec: spec.short),
        keep=40,
    ),
    words("spec", "Spec", "The convolution with all its parameters", _of_spec(str)),
    number(
        "macs",
        "MACs",
        "Multiply-accumulates of the convolution by its definition",
        si_text,
        unit="MACs",
        dtype="Int64",
        keep=50,
        summed=True,
    ),
    milliseconds(
        "latency_ms",
        "In context ms",
        "Median time of the module itself inside real forward passes",
        keep=90,
        summed=True,
    ),
    milliseconds("latency_spread_ms", "In context spread ms", "The interquartile range of latency_ms"),
    milliseconds(
        "native_ms",
        "Native ms",
        "Median time alone of PyTorch's own convolution, in the faster layout",
        keep=70,
        summed=True,
    ),
    words("native_layout", "Native layout", "Layout in which PyTorch's own convolution is faster"),
    milliseconds(
        "best_ms",
        "Best ms",
        "Median time alone of the fastest path within the tolerance",
        keep=80,
        summed=True,
    ),
    milliseconds("best_spread_ms", "Best spread ms", "The interquartile range of best_ms"),
    number(
        "speedup",
        "Speedup",
        "native_ms / best_ms: how many times as fast the best path is",
        ratio_text,
        keep=85,
    ),
    number(
        "layout_speedup",
        "Layout gain",
        "How many times as fast native_ms is as PyTorch's own convolution in the layout that the model runs",
        ratio_text,
        keep=84,
    ),
    words(
        "best_path", "Best path", "Fastest path within the tolerance; native where none is faster", keep=88
    ),
    words("best_layout", "Layout", "Layout of the best path's input", keep=60),
    number(
        "error",
        "Error",
        "Error of the best path, max |y - exact| / max |exact|, with the layer's weights on a real input",
        error_text,
        keep=55,
    ),
    number(
        "multiplications",
        "Multiplications",
        "Multiplications of data by weights on the best path",
        si_text,
        dtype="Int64",
        keep=30,
    ),
    number(
        "workspace_bytes",
        "Workspace",
        "Memory of the best path beside input, output and weights",
        bytes_text,
        unit="bytes",
        dtype="Int64",
        keep=35,
    ),
    number(
        "roofline_share",
        "Roofline %",
        "Lower bound on the time, by this machine's peak and bandwidth, over the best path's time",
        percent_text,
        _percent,
        unit="%",
        keep=45,
    ),
    yes("disturbed", "Unreliable", "Whether native_ms or best_ms is unreliable: samples were interrupted"),
    words("note", "Note", "Why something is missing or doubtful", keep=20),
)
DEFAULT_LAYER_COLUMNS = (
    *("name", "convolution", "macs", "latency_ms", "native_ms", "best_ms", "speedup", "layout_speedup"),
    *("best_path", "best_layout", "error", "multiplications", "workspace_bytes", "roofline_share"),
)


def predicted_columns(predicted: Callable[[LayerTime], Prediction | None]) -> tuple[Column[LayerTime], ...]:
    """The columns of predicted times, shown only where something was predicted.

    Args:
        predicted: gives the prediction of a layer, or None.
    """

    def of(show: Callable[[Prediction], Cell]) -> Get[LayerTime]:
        return lambda layer: None if (found := predicted(layer)) is None else show(found)

    together: Numbers = {"keep": 68, "group": "predicted"}
    return (
        words(
            "predicted_path",
            "Predicted path",
            "Path predicted to be the fastest, from measurements of other convolutions",
            of(lambda one: one.path),
            **together,
        ),
        words(
            "predicted_layout",
            "Predicted layout",
            "Layout of the predicted path's input",
            of(lambda one: one.layout),
            keep=10,
        ),
        milliseconds(
            "predicted_ms",
            "Predicted ms",
            "Predicted time alone of the predicted path; not measured",
            of(lambda one: one.seconds * 1e3),
            **together,
        ),
        number(
            "prediction_error",
            "Prediction error",
            "Median relative error of such predictions in cross-validation; unknown when extrapolating",
            lambda share: f"{share:.0%}",
            of(lambda one: None if one.extrapolated else one.error),
            **together,
        ),
    )


DEFAULT_PREDICTED_COLUMNS = ("predicted_path", "predicted_ms", "prediction_error")

PATH_COLUMNS: tuple[Column[Measurement], ...] = (
    words(
        "convolution",
        "Convolution",
        "Channels, kernel, stride and input size of the convolution",
        lambda one: one.key.spec.short,
    ),
    *(replace(column, header="Spec") if column.name == "spec" else column for column in MEASUREMENT_COLUMNS),
    yes("rough", "Rough", "Whether the time has only a few samples, from a first look", is_rough, keep=80),
)
DEFAULT_PATH_COLUMNS = ("convolution", "path", "layout", "ms", "spread_ms", "samples", "rough", "error")
