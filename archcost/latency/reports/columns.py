"""The columns of what was measured: of a convolution call, and of one time of one path."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from archcost.latency.paths import is_rough
from archcost.latency.store.listing import MEASUREMENT_COLUMNS
from archcost.report.columns import milliseconds, number, words, yes
from archcost.report.document import Column
from archcost.report.units import bytes_text, error_text, percent_text, ratio_text, si_text
from archcost.spec import ConvSpec

if TYPE_CHECKING:
    from archcost.latency.layers import LayerTime
    from archcost.latency.prediction.predictor import Prediction

__all__ = [
    *("DEFAULT_LAYER_COLUMNS", "DEFAULT_PATH_COLUMNS", "DEFAULT_PREDICTED_COLUMNS"),
    *("LAYER_COLUMNS", "PATH_COLUMNS", "predicted_columns"),
]


def _of_spec(show: Callable[[ConvSpec], str]) -> Callable[[Any], str | None]:
    return lambda layer: None if layer.spec is None else show(layer.spec)


def _percent(layer: LayerTime) -> float | None:
    return None if layer.roofline_share is None else 100 * layer.roofline_share


LAYER_COLUMNS: tuple[Column, ...] = (
    words("name", "Layer", "The module that made the call, as in named_modules()", keep=100),
    words("type", "Type", "Its class"),
    number("call", "Call", "0 for its first call in a pass", str, dtype="int64"),
    words(
        "convolution",
        "Convolution",
        "Channels, kernel, stride and input",
        _of_spec(lambda spec: spec.short),
        keep=40,
    ),
    words("spec", "Spec", "The same with everything that tells it from others", _of_spec(str)),
    number(
        "macs",
        "MACs",
        "Multiply-accumulates by definition",
        si_text,
        unit="MACs",
        dtype="Int64",
        keep=50,
        summed=True,
    ),
    milliseconds(
        "latency_ms",
        "In context ms",
        "The module's own time inside real forward passes",
        keep=90,
        summed=True,
    ),
    milliseconds("latency_spread_ms", "In context spread ms", "The interquartile range of latency_ms"),
    milliseconds(
        "native_ms",
        "Native ms",
        "Alone: PyTorch's own convolution in the faster layout",
        keep=70,
        summed=True,
    ),
    words("native_layout", "Native layout", "The faster layout"),
    milliseconds("best_ms", "Best ms", "Alone: the fastest eligible path", keep=80, summed=True),
    milliseconds("best_spread_ms", "Best spread ms", "The interquartile range of best_ms"),
    number("speedup", "Speedup", "native_ms / best_ms", ratio_text, keep=85),
    words("best_path", "Best path", "The fastest eligible path; native where none is faster", keep=88),
    words("best_layout", "Layout", "Of its input", keep=60),
    number(
        "error",
        "Error",
        "Of the best path: max |y - exact| / max |exact|, on the layer's own weights and a real input",
        error_text,
        keep=55,
    ),
    number(
        "multiplications",
        "Multiplications",
        "Of data by weights on the best path",
        si_text,
        dtype="Int64",
        keep=30,
    ),
    number(
        "workspace_bytes",
        "Workspace",
        "Of the best path beside input, output and weights",
        bytes_text,
        unit="bytes",
        dtype="Int64",
        keep=35,
    ),
    number(
        "roofline_share",
        "Roofline %",
        "Share that the best path reaches of what this machine's peak and bandwidth allow it",
        percent_text,
        _percent,
        unit="%",
        keep=45,
    ),
    words("note", "Note", "Why something is missing, or is as it is", keep=20),
)
DEFAULT_LAYER_COLUMNS = (
    *("name", "convolution", "macs", "latency_ms", "native_ms", "best_ms", "speedup", "best_path"),
    *("best_layout", "error", "multiplications", "workspace_bytes", "roofline_share"),
)


def predicted_columns(predicted: Callable[[LayerTime], Prediction | None]) -> tuple[Column, ...]:
    """Beside the others where something was predicted, and only there: what nobody measured."""

    def of(show: Callable[[Prediction], Any]) -> Callable[[LayerTime], Any]:
        return lambda layer: None if (found := predicted(layer)) is None else show(found)

    together: dict[str, Any] = {"keep": 68, "group": "predicted"}
    return (
        words(
            "predicted_path",
            "Predicted path",
            "Not measured: the path that would be the fastest, by what was measured of others",
            of(lambda one: one.path),
            **together,
        ),
        words("predicted_layout", "Predicted layout", "Of its input", of(lambda one: one.layout), keep=10),
        milliseconds(
            "predicted_ms",
            "Predicted ms",
            "Not measured: what that path would take, alone",
            of(lambda one: one.seconds * 1e3),
            **together,
        ),
        number(
            "prediction_error",
            "Prediction error",
            "The median relative error of such predictions of measurements left out; unknown beyond those",
            lambda share: f"{share:.0%}",
            of(lambda one: None if one.extrapolated else one.error),
            **together,
        ),
    )


DEFAULT_PREDICTED_COLUMNS = ("predicted_path", "predicted_ms", "prediction_error")

PATH_COLUMNS: tuple[Column, ...] = (
    words(
        "convolution",
        "Convolution",
        "Channels, kernel, stride and input",
        lambda one: one.key.spec.short,
    ),
    *(replace(column, header="Spec") if column.name == "spec" else column for column in MEASUREMENT_COLUMNS),
    yes("rough", "Rough", "Timed in a first look only", is_rough, keep=80),
)
DEFAULT_PATH_COLUMNS = ("convolution", "path", "layout", "ms", "spread_ms", "samples", "rough", "error")
