"""Pooling: comparisons or additions within each window."""

from __future__ import annotations

from math import prod

from archcost.cost.registry import counting_rule
from archcost.trace.graph import Op
from archcost.trace.schema import arguments


def _window(op: Op) -> int:
    axes = 1 if "1d" in op.name else 3 if "3d" in op.name else 2
    kernel = arguments(op)["kernel_size"]
    kernel = (kernel,) if isinstance(kernel, int) else tuple(kernel)
    return int(prod(kernel)) if len(kernel) == axes else int(kernel[0] ** axes)


@counting_rule(
    *("aten.max_pool2d_with_indices", "aten.max_pool3d_with_indices", "aten.max_pool1d", "aten.max_pool2d"),
    *("aten.mkldnn_max_pool2d", "aten.mkldnn_max_pool3d", "aten.max_pool3d", "aten.quantized_max_pool2d"),
    *("aten.quantized_max_pool1d", "aten.quantized_max_pool3d"),
    *("aten.fractional_max_pool2d", "aten.fractional_max_pool3d"),
    kind="pool",
)
def max_pool(op: Op) -> tuple[int, int]:
    return 0, (_window(op) - 1) * op.outputs[0].numel


@counting_rule("aten.avg_pool1d", "aten.avg_pool2d", "aten.avg_pool3d", kind="pool")
def average_pool(op: Op) -> tuple[int, int]:
    # One addition less than the window has, and the division.
    return 0, _window(op) * op.outputs[0].numel


def adaptive_taps(op: Op) -> int:
    """Elements read by all windows together; window i of m over n is [i n / m, (i + 1) n / m), outwards."""
    x, out = op.args[0], op.outputs[0]
    sizes = arguments(op).get("output_size")
    axes = 1 if sizes is None or isinstance(sizes, int) else len(sizes)
    taps = prod(out.shape[: len(out.shape) - axes])
    for n, m in zip(x.shape[-axes:], out.shape[-axes:], strict=True):
        taps *= sum(-(-(i + 1) * n // m) - i * n // m for i in range(m))
    return int(taps)


@counting_rule(
    *("aten._adaptive_avg_pool2d", "aten._adaptive_avg_pool3d", "aten.adaptive_avg_pool1d"),
    *("aten.adaptive_avg_pool2d", "aten.adaptive_avg_pool3d", "aten.mkldnn_adaptive_avg_pool2d"),
    kind="pool",
)
def adaptive_average_pool(op: Op) -> tuple[int, int]:
    return 0, adaptive_taps(op)


@counting_rule(
    *("aten.adaptive_max_pool1d", "aten.adaptive_max_pool2d", "aten.adaptive_max_pool3d"), kind="pool"
)
def adaptive_max_pool(op: Op) -> tuple[int, int]:
    return 0, adaptive_taps(op) - op.outputs[0].numel
