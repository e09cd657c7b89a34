"""Pooling: comparisons or additions within each window."""

from __future__ import annotations

from math import prod

from archcost.cost.rules.tables import made, without_macs
from archcost.trace.graph import Op
from archcost.trace.schema import arguments


def _window(op: Op) -> int:
    axes = 1 if "1d" in op.name else 3 if "3d" in op.name else 2
    kernel = arguments(op)["kernel_size"]
    kernel = (kernel,) if isinstance(kernel, int) else tuple(kernel)
    return int(prod(kernel)) if len(kernel) == axes else int(kernel[0] ** axes)


def _adaptive_taps(op: Op) -> int:
    """Elements read by all windows; window i of m over n is [floor(i n / m), ceil((i + 1) n / m))."""
    x, out = op.args[0], op.outputs[0]
    sizes = arguments(op).get("output_size")
    axes = 1 if sizes is None or isinstance(sizes, int) else len(sizes)
    taps = prod(out.shape[: len(out.shape) - axes])
    for n, m in zip(x.shape[-axes:], out.shape[-axes:], strict=True):
        taps *= sum(-(-(i + 1) * n // m) - i * n // m for i in range(m))
    return int(taps)


without_macs(
    "pool",
    {
        """
        max_pool{1,2,3}d max_pool{2,3}d_with_indices mkldnn_max_pool{2,3}d quantized_max_pool{1,2,3}d
        fractional_max_pool{2,3}d
        """: lambda op: (_window(op) - 1) * made(op),
        # window - 1 additions, and the division.
        "avg_pool{1,2,3}d": lambda op: _window(op) * made(op),
        "_adaptive_avg_pool{2,3}d adaptive_avg_pool{1,2,3}d mkldnn_adaptive_avg_pool2d": _adaptive_taps,
        "adaptive_max_pool{1,2,3}d": lambda op: _adaptive_taps(op) - made(op),
    },
)
