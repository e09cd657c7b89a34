"""The work of a path for a convolution, in counts that its time follows; nothing is measured here."""

from __future__ import annotations

from math import log2, prod
from typing import NamedTuple

from archcost.latency.prediction.roofline import bytes_moved
from archcost.spec import ConvSpec

__all__ = ["FEATURES", "Work", "features_of", "kind_of", "work_of"]

_RUNS = {"PyTorch": 0, "compiled": 0, "partly compiled": 1, "tensor operations": 2}
FEATURES = (
    *("in_channels", "out_channels", "groups", "batch", "positions", "taps_along", "taps_across"),
    *("stride", "dilation", "multiplications", "weights", "implementation"),
)
"""The names of the features; channels are those of a group."""


class Work(NamedTuple):
    """The work of a path for a convolution."""

    multiplications: int
    """Multiplications of data by weights."""
    moved: int
    """Bytes of input and output."""
    weights: int
    """Bytes of weights and, where the path knows it, workspace."""
    transforms: int = 0
    """Multiplications in the transforms of input and output, where there are any."""


def kind_of(spec: ConvSpec) -> str:
    """The kind of a convolution: dense, grouped or depthwise, "transposed" before it where it is."""
    kind = "dense" if spec.groups == 1 else "depthwise" if spec.groups == spec.in_channels else "grouped"
    return f"transposed {kind}" if spec.transposed else kind


def work_of(spec: ConvSpec, path: str, itemsize: int = 4) -> Work:
    """The work of a path for a convolution by its own counts; ``itemsize`` is bytes for each number."""
    from archcost.paths import get

    way = get(path)
    weights = itemsize * spec.params
    workspace = way.workspace_bytes(spec, itemsize) or 0
    return Work(
        multiplications=way.multiplications(spec),
        moved=bytes_moved(spec, itemsize) - weights,
        weights=weights + workspace,
        transforms=way.transform_multiplications(spec),
    )


def features_of(spec: ConvSpec, path: str, work: Work) -> tuple[float, ...]:
    """The features of a convolution on a path, a number for each of `FEATURES`: binary logarithms, mostly.

    Convolutions near each other run the same code in the same way: they fill vectors and caches alike.
    """
    from archcost.paths import get

    *across, along = spec.kernel_size
    inner, outer = spec.in_channels // spec.groups, spec.out_channels // spec.groups
    counts = (
        *(inner, outer, spec.groups, spec.batch, spec.batch * prod(spec.output_size), along, prod(across)),
        *(prod(spec.stride), prod(spec.dilation)),
        *(max(work.multiplications, 1), max(work.weights, 1)),
    )
    return (*map(log2, counts), float(_RUNS[get(path).implementation(spec)]))
