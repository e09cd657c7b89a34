"""The columns of what was measured: of a convolution call, and of one time of one path."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from archcost.latency.paths import is_rough, path_of
from archcost.report.columns import Column, Row
from archcost.report.units import bytes_text, percent_text, ratio_text, si_text
from archcost.spec import ConvSpec

__all__ = [
    *("DEFAULT_LAYER_COLUMNS", "DEFAULT_PATH_COLUMNS", "LAYER_COLUMNS", "PATH_COLUMNS"),
    *("DEFAULT_PREDICTED_COLUMNS", "PREDICTED_COLUMNS"),
]


def _ms(value: float) -> str:
    return f"{value:.3f}"


def _error(value: float) -> str:
    return f"{value:.0e}" if value else "0"


def _field(name: str) -> Callable[[Row], Any]:
    return lambda row: getattr(row.cost, name)


def _words(
    name: str, header: str, meaning: str, get: Callable[[Row], Any] | None = None, **options: Any
) -> Column:
    return Column(
        name,
        header,
        meaning,
        get or _field(name),
        show=str,
        dtype="str",
        missing="-",
        summed=False,
        **options,
    )


def _number(
    name: str,
    header: str,
    meaning: str,
    show: Callable[[Any], str],
    get: Callable[[Row], Any] | None = None,
    **options: Any,
) -> Column:
    defaults: dict[str, Any] = {"dtype": "Float64", "missing": "-", "summed": False}
    return Column(name, header, meaning, get or _field(name), show=show, **{**defaults, **options})


def _time(
    name: str, header: str, meaning: str, get: Callable[[Row], Any] | None = None, **more: Any
) -> Column:
    return _number(name, header, meaning, _ms, get, **{"unit": "ms", **more})


def _of_spec(show: Callable[[ConvSpec], str]) -> Callable[[Row], str | None]:
    return lambda row: None if row.cost.spec is None else show(row.cost.spec)


def _percent(row: Row) -> float | None:
    share = row.cost.roofline_share
    return None if share is None else 100 * share


def _prediction(show: Callable[[Any], Any]) -> Callable[[Row], Any]:
    def get(row: Row) -> Any:
        found = row.analysis.predicted(row.cost)
        return None if found is None else show(found)

    return get


LAYER_COLUMNS: tuple[Column, ...] = (
    _words("name", "Layer", "The module that made the call, as in named_modules()", keep=100),
    _words("type", "Type", "Its class"),
    _number("call", "Call", "0 for its first call in a pass", str, dtype="int64"),
    _words(
        "convolution",
        "Convolution",
        "Channels, kernel, stride and input",
        _of_spec(lambda spec: spec.short),
        keep=40,
    ),
    _words("spec", "Spec", "The same with everything that tells it from others", _of_spec(str)),
    _number(
        "macs",
        "MACs",
        "Multiply-accumulates by definition",
        si_text,
        unit="MACs",
        dtype="Int64",
        keep=50,
        summed=True,
    ),
    _time(
        "latency_ms",
        "In context ms",
        "The module's own time inside real forward passes",
        keep=90,
        summed=True,
    ),
    _time("latency_spread_ms", "In context spread ms", "The interquartile range of latency_ms"),
    _time(
        "native_ms",
        "Native ms",
        "Alone: PyTorch's own convolution in the faster layout",
        keep=70,
        summed=True,
    ),
    _words("native_layout", "Native layout", "The faster layout"),
    _time("best_ms", "Best ms", "Alone: the fastest eligible path", keep=80, summed=True),
    _time("best_spread_ms", "Best spread ms", "The interquartile range of best_ms"),
    _number("speedup", "Speedup", "native_ms / best_ms", ratio_text, keep=85),
    _words("best_path", "Best path", "The fastest eligible path; native where none is faster", keep=88),
    _words("best_layout", "Layout", "Of its input", keep=60),
    _number(
        "error",
        "Error",
        "Of the best path: max |y - exact| / max |exact|, on the layer's own weights and a real input",
        _error,
        keep=55,
    ),
    _number(
        "multiplications",
        "Multiplications",
        "Of data by weights on the best path",
        si_text,
        dtype="Int64",
        keep=30,
    ),
    _number(
        "workspace_bytes",
        "Workspace",
        "Of the best path beside input, output and weights",
        bytes_text,
        unit="bytes",
        dtype="Int64",
        keep=35,
    ),
    _number(
        "roofline_share",
        "Roofline %",
        "Share that the best path reaches of what this machine's peak and bandwidth allow it",
        percent_text,
        _percent,
        unit="%",
        keep=45,
    ),
    _words("note", "Note", "Why something is missing, or is as it is", keep=20),
)
DEFAULT_LAYER_COLUMNS = (
    *("name", "convolution", "macs", "latency_ms", "native_ms", "best_ms", "speedup", "best_path"),
    *("best_layout", "error", "multiplications", "workspace_bytes", "roofline_share"),
)

# Beside the others where something was predicted, and only there: what nobody measured.
PREDICTED_COLUMNS: tuple[Column, ...] = (
    _words(
        "predicted_path",
        "Predicted path",
        "Not measured: the path that would be the fastest, by what was measured of others",
        _prediction(lambda one: one.path),
        keep=68,
        group="predicted",
    ),
    _words(
        "predicted_layout", "Predicted layout", "Of its input", _prediction(lambda one: one.layout), keep=10
    ),
    _time(
        "predicted_ms",
        "Predicted ms",
        "Not measured: what that path would take, alone",
        _prediction(lambda one: one.seconds * 1e3),
        keep=68,
        group="predicted",
    ),
    _number(
        "prediction_error",
        "Prediction error",
        "The median relative error of such predictions of measurements left out; unknown beyond those",
        lambda share: f"{share:.0%}",
        _prediction(lambda one: None if one.extrapolated else one.error),
        keep=68,
        group="predicted",
    ),
)
DEFAULT_PREDICTED_COLUMNS = ("predicted_path", "predicted_ms", "prediction_error")

PATH_COLUMNS: tuple[Column, ...] = (
    _words(
        "convolution",
        "Convolution",
        "Channels, kernel, stride and input",
        lambda row: row.cost.key.spec.short,
    ),
    _words("spec", "Spec", "The same in full", lambda row: str(row.cost.key.spec)),
    _words("path", "Path", "The way it was executed", lambda row: path_of(row.cost)),
    _words("layout", "Layout", "Of the input", lambda row: row.cost.key.layout),
    _time("ms", "ms", "The median", lambda row: row.cost.median_s * 1e3),
    _time(
        "spread_ms",
        "Spread ms",
        "The interquartile range",
        lambda row: None if row.cost.spread_s is None else row.cost.spread_s * 1e3,
    ),
    Column(
        "rough", "Rough", "Timed in a first look only", lambda row: is_rough(row.cost), show=str, dtype="bool"
    ),
    _number("samples", "Samples", "Those kept", str, dtype="int64"),
    _number("dropped", "Dropped", "Those left out because they were interrupted", str, dtype="int64"),
    Column(
        "disturbed", "Disturbed", "Every sample was interrupted", _field("disturbed"), show=str, dtype="bool"
    ),
    _number("error", "Error", "max |y - exact| / max |exact| when it was measured", _error),
    _number(
        "workspace_bytes",
        "Workspace",
        "Beside input, output and weights",
        bytes_text,
        unit="bytes",
        dtype="Int64",
    ),
    _words("dtype", "Dtype", "Of input and weights", lambda row: row.cost.key.dtype),
    _number("threads", "Threads", "Of PyTorch", str, lambda row: row.cost.key.threads, dtype="int64"),
    _number("batch", "Batch", "Images", str, lambda row: row.cost.key.spec.batch, dtype="int64"),
    _words("clock", "Clock", "cpu for the CPU time of one thread, wall for wall time"),
    _words("torch", "Torch", "The version of PyTorch"),
    _words("device", "Device", "Machine and software"),
)
DEFAULT_PATH_COLUMNS = ("convolution", "path", "layout", "ms", "spread_ms", "samples", "rough", "error")
