"""How the Fourier and Winograd paths cut a map into tiles, and which computed numbers are outputs."""

from __future__ import annotations

from functools import reduce
from math import prod
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from archcost.errors import SpecError
from archcost.spec import ConvSpec

if TYPE_CHECKING:
    from archcost.paths.path import ExecutionPath

__all__ = ["KEPT", "OUTSIDE", "STRIDE", "WRAPS", "Tiling", "tiling"]

# Kinds of computed numbers: an output, skipped by the stride, wrapped around, beyond the map.
KEPT, STRIDE, WRAPS, OUTSIDE = range(4)

Sizes = tuple[int, ...]


class Tiling(NamedTuple):
    """A plain convolution cut into tiles; sizes have a value for each axis."""

    name: str
    taps: Sizes
    input: Sizes
    """Pixels of the input, padding included."""
    output: Sizes
    """Positions of the output, including those that the stride skips."""
    size: Sizes
    """Pixels of a tile."""
    step: Sizes
    """Outputs of a tile, which is also the distance to the next tile."""
    tiles: Sizes
    stride: Sizes
    """The stride with which outputs are kept."""
    wraps: bool
    """The tile computes as many numbers as it has pixels, and the last ones have wrapped around (Fourier)."""
    parts: int
    """Plain convolutions that make up the one asked for; this is the one with most taps."""

    @property
    def computed(self) -> int:
        """Numbers that all tiles give before anything is thrown away."""
        return prod(self.tiles) * prod(self.size if self.wraps else self.step)

    @property
    def kept(self) -> int:
        return prod(-(-n // s) for n, s in zip(self.output, self.stride, strict=True))

    def tile(self) -> np.ndarray:
        """The kind of each number of the first tile."""
        lengths = self.size if self.wraps else self.step
        axes = zip(lengths, self.step, self.stride, strict=True)
        return _product(
            [np.where(np.arange(t) < m, np.where(np.arange(t) % s, STRIDE, KEPT), WRAPS) for t, m, s in axes]
        )

    def map(self) -> np.ndarray:
        """The kind of each number of all tiles, side by side."""
        axes = zip(self.tiles, self.step, self.output, self.stride, strict=True)
        kinds = []
        for tiles, m, n, s in axes:
            at = np.arange(tiles * m)
            kinds.append(np.where(at < n, np.where(at % s, STRIDE, KEPT), OUTSIDE))
        return _product(kinds)

    def readers(self) -> np.ndarray:
        """How many tiles read each pixel; what the last ones are filled up with is among them."""
        counts = []
        for tiles, m, size in zip(self.tiles, self.step, self.size, strict=True):
            count = np.zeros((tiles - 1) * m + size, dtype=int)
            for tile in range(tiles):
                count[tile * m : tile * m + size] += 1
            counts.append(count)
        return np.asarray(reduce(np.multiply.outer, counts))


def _product(kinds: list[np.ndarray]) -> np.ndarray:
    """Over all axes: the worst of the kinds that a number has along each."""
    return np.asarray(reduce(np.maximum.outer, kinds))


def tiling(spec: ConvSpec, path: str | ExecutionPath) -> Tiling:
    """How a path cuts a convolution, of its phases the one with most taps.

    Raises:
        SpecError: the path has no tiles or does not support the convolution, or it is transposed.
    """
    from archcost.paths.algorithms.fft import FFTPath
    from archcost.paths.algorithms.space_to_depth import spread
    from archcost.paths.algorithms.tiling import TiledPath
    from archcost.paths.phases import phases
    from archcost.paths.registry import get

    path = get(path) if isinstance(path, str) else path
    if not isinstance(path, TiledPath):
        raise SpecError(
            f"plot.tiles: path {path.name!r} has no tiles; take winograd-4, fft, fft-16 or another"
        )
    if spec.transposed:
        raise SpecError("plot.tiles: transposed convolutions are not drawn")
    reason = path.supports(spec)
    if reason is not None:
        raise SpecError(f"plot.tiles: path {path.name!r} cannot execute this convolution: {reason}")
    # A path that discards executes the convolution with stride 1, and keeps every so many outputs.
    executed = path._executed(spec)
    if executed == spread(spec):
        raise SpecError(
            f"plot.tiles: path {path.name!r} executes this stride by space to depth, as a convolution of "
            f"stride 1, which can be drawn: give archcost.paths.algorithms.space_to_depth.spread(spec)"
        )
    strides = spec.stride, executed.stride
    found = phases(executed)
    dense = max((phase.dense for phase in found), key=lambda dense: prod(dense.kernel_size))
    step = path.outputs(dense)
    return Tiling(
        name=path.name,
        taps=dense.kernel_size,
        input=tuple(n + r - 1 for n, r in zip(dense.output_size, dense.kernel_size, strict=True)),
        output=dense.output_size,
        size=tuple(m + r - 1 for m, r in zip(step, dense.kernel_size, strict=True)),
        step=step,
        tiles=path.tiles(dense),
        stride=tuple(asked // done for asked, done in zip(*strides, strict=True)),
        wraps=isinstance(path, FFTPath),
        parts=sum(phase.dense.batch // executed.batch for phase in found),
    )
