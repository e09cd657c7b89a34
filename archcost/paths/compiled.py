"""The compiled kernel for a convolution, its packed weights, and its memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import prod

import torch
from torch import Tensor

from archcost.kernels import packing
from archcost.kernels.blocked import FEW_CHANNELS, BlockedConvolution, pack_direct, pack_grouped
from archcost.kernels.loading import Images, Problem, library
from archcost.kernels.packed import Packed
from archcost.kernels.tensors import images, loaded, planar
from archcost.paths.geometry import Axes
from archcost.paths.path import Prepared
from archcost.paths.phases import Dense
from archcost.spec import ConvSpec

__all__ = [
    *("GROUPED", "Kernel", "PackedWeights", "depthwise_kernel", "fourier_kernel"),
    *("im2col_kernel", "long_row_kernel", "on_blocks", "packed_direct", "rows_kernel", "winograd_kernel"),
    "winograd_taps",
]

PackedWeights = Packed | tuple[Packed, ...]
Sides = tuple[tuple[int, int], ...]

# With fewer channels in a group, a call for each group costs more than it gains.
LEAST_GROUP_CHANNELS = 16
GROUPED = f"; groups of {LEAST_GROUP_CHANNELS} channels or more"


@dataclass(frozen=True)
class Kernel:
    """A kernel of the library for a convolution of at most two axes in float32."""

    kind: str
    """The name of the kernel, a key of `archcost.kernels.packed.KINDS`."""
    packer: Callable[[Tensor], Packed]
    """The packing function of `archcost.kernels`, for weights (out, in, *kernel_size)."""
    weights: tuple[int, ...]
    """The arguments by which the library sizes packed weights."""
    call: tuple[int, ...]
    """The first arguments of a call."""
    given: tuple[int, int, int, int]
    """The shape of its input, (batch, channels, height, width)."""
    written: tuple[int, int, int, int]
    """The shape of its output, (batch, channels, height, width)."""
    before: tuple[int, int]
    """Padding above and at the left."""
    calls: int = 1
    """The number of calls: 1, or a call for each group, whose outputs are concatenated."""

    def pack(self, taps: Tensor) -> PackedWeights:
        """Pack weights (groups, out, in, *kernel_size)."""
        if self.calls == 1:
            return self.packer(taps.flatten(0, 1).float())
        return tuple(self.packer(one.float()) for one in taps)

    @property
    def reads_blocks(self) -> bool:
        """Whether it can be called with a blocked tensor."""
        return self.calls == 1 and self.kind not in ("im2col", "long_row")

    def packed_bytes(self) -> int:
        """Bytes of the packed weights: channels fill whole vectors, and transforms have more numbers."""
        floats = getattr(loaded(), f"archcost_{self.kind}_packed_floats")
        return 4 * self.calls * int(floats(*self.weights))

    def scratch_bytes(self) -> int:
        """Bytes of working memory, by PyTorch's threads; with several calls also all outputs."""
        problem = Problem(
            input=_contiguous(*self.given),
            output=_contiguous(*self.written),
            pad_top=self.before[0],
            pad_left=self.before[1],
            threads=torch.get_num_threads(),
        )
        floats = int(getattr(loaded(), f"archcost_{self.kind}_scratch_floats")(*self.call, problem))
        return 4 * (floats + (self.calls * prod(self.written) if self.calls > 1 else 0))


class DirectKernel(Kernel):
    """The depthwise kernel by the definition, with any stride and dilation, in channels_last."""

    def packed_bytes(self) -> int:
        """Bytes of the weights: packing only reorders them."""
        return 4 * prod(self.weights)

    def scratch_bytes(self) -> int:
        """Bytes of input and output, which are copied where they are not in channels_last."""
        return 4 * (prod(self.given) + prod(self.written))


def depthwise_kernel(spec: ConvSpec) -> Kernel | None:
    """The direct depthwise kernel; None if transposed, of three axes, or with several filters a channel."""
    if spec.transposed or spec.axes > 2 or not spec.groups == spec.in_channels == spec.out_channels:
        return None
    weights = (*_two(spec.kernel_size), spec.groups)
    given, written, before = _images(spec, spec.input_size, ((0, 0),) * spec.axes)
    return DirectKernel(
        "depthwise_direct", packing.pack_depthwise_direct, weights, (), given, written, before
    )


def packed_direct(weight: Tensor, spec: ConvSpec) -> Packed:
    """Weights (groups, out, in, *kernel_size) for blocked tensors, where the convolution is not depthwise."""
    steps, weight = (_two(spec.stride), _two(spec.dilation)), planar(weight.flatten(0, 1))
    if spec.groups > 1:
        return pack_grouped(weight, spec.groups, *steps)
    return pack_direct(weight, *steps, blocked=spec.in_channels > FEW_CHANNELS)


def on_blocks(
    packed: PackedWeights,
    prepared: Prepared,
    executed: ConvSpec | None = None,
    before: Callable[[Tensor], Tensor] | None = None,
) -> BlockedConvolution:
    """The convolution from and to blocked tensors, by a kernel of one call.

    Args:
        packed: weights for it.
        prepared: the convolution.
        executed: another one that is executed in its place.
        before: makes the input of that one.
    """
    assert isinstance(packed, Packed)
    spec = executed or prepared.spec
    return BlockedConvolution(
        packed,
        (spec.batch, spec.in_channels, *_two(spec.input_size)),
        prepared.bias,
        stride=_two(spec.stride),
        dilation=_two(spec.dilation),
        padding=(spec.padding[0] if spec.axes == 2 else (0, 0), spec.padding[-1]),
        clamp=prepared.epilogue.clamp,
        before=before,
    )


def im2col_kernel(spec: ConvSpec) -> Kernel | None:
    """The im2col kernel, any stride and dilation; None if transposed, of three axes, or with small groups."""
    ins, outs = spec.in_channels // spec.groups, spec.out_channels // spec.groups
    if spec.transposed or spec.axes > 2 or (spec.groups > 1 and ins < LEAST_GROUP_CHANNELS):
        return None
    window = (*_two(spec.kernel_size), *_two(spec.stride), *_two(spec.dilation))
    size, padding = spec.input_size, spec.padding
    if spec.padding_mode != "zeros":  # written out before the call
        size = tuple(n + low + high for n, (low, high) in zip(size, padding, strict=True))
        padding = ((0, 0),) * spec.axes
    images = _images(spec, size, padding, spec.groups)
    return Kernel("im2col", packing.pack_im2col, (*window, outs, ins), window, *images, calls=spec.groups)


def winograd_kernel(dense: Dense, outputs: Axes) -> Kernel | None:
    """The Winograd kernel with tiles of these outputs; None where the library has no such tile."""
    if len(outputs) > 2:
        return None
    place = packing.winograd_place(_two(outputs), _two(dense.kernel_size))
    packer = partial(packing.pack_winograd, outputs=_two(outputs))
    return None if place is None else _tiles(dense, packer, (packing.WINOGRAD, place, 0))


def winograd_taps(m: int) -> list[str]:
    """The kernel sizes that have tiles of m outputs, as "3x3"; empty without the library."""
    if library() is None:
        return []
    fitting = [tile for tile in packing.winograd_tiles() if max(tile.outputs) == m]
    return [f"{height}x{width}" for height, width in sorted({tile.taps for tile in fitting})]


def fourier_kernel(dense: Dense, lengths: Axes, gauss: bool) -> Kernel | None:
    """The Fourier kernel for taps in a single row, with transforms of these lengths; else None.

    ``gauss``: whether two complex numbers take three products, with half as many weights again, or four.
    """
    taps, size = dense.kernel_size[-1], lengths[-1]
    along_row = len(lengths) == 1 or (len(lengths) == 2 and dense.kernel_size[0] == 1)
    if dense.depthwise or not along_row or taps == 1 or packing.fft_size(size) != size:
        return None
    family = packing.FOURIER if gauss else packing.FOURIER_OF_PAIRS
    return _tiles(dense, partial(packing.pack_fourier, size=size, gauss=gauss), (family, size, taps))


def _tiles(dense: Dense, packer: Callable[[Tensor], Packed], name: tuple[int, int, int]) -> Kernel | None:
    """The kernel for tiles, by their family and two numbers in the C interface; None for small groups."""
    ins, outs = dense.in_channels // dense.groups, dense.out_channels // dense.groups
    if dense.groups > 1 and ins < LEAST_GROUP_CHANNELS:
        return None
    images = _images(dense, dense.input_size, dense.padding, dense.groups)
    return Kernel("tiles", packer, (*name, outs, ins), name, *images, calls=dense.groups)


def rows_kernel(dense: Dense, size: int) -> Kernel | None:
    """The depthwise kernel by transforms of whole rows, of this length; else None."""
    axes = len(dense.kernel_size)
    plain = dense.depthwise and dense.out_channels == dense.groups and axes < 3
    if not plain or packing.fft_size(size) != size:
        return None
    call = (*_two(dense.kernel_size), size)
    padding = (*((0, 0),) * (axes - 1), dense.padding[-1])
    packer = partial(packing.pack_depthwise, width=dense.input_size[-1], padding=padding)
    images = _images(dense, dense.input_size, dense.padding)
    return Kernel("depthwise", packer, (*call, dense.in_channels), call, *images)


def long_row_kernel(dense: Dense, step: int) -> Kernel | None:
    """The kernel for sequences cut into frames ``step`` pixels apart, all groups in a call; else None."""
    if len(dense.kernel_size) > 1 or packing.fft_size(2 * step) != 2 * step:
        return None
    (taps,), groups = dense.kernel_size, dense.groups
    packer = partial(packing.pack_long_row, step=step, groups=groups)
    weights = (taps, step, dense.out_channels, dense.in_channels // groups)
    images = _images(dense, dense.input_size, dense.padding)
    return Kernel("long_row", packer, weights, (taps, step, groups), *images)


def _two(values: Axes) -> tuple[int, int]:
    """Values for two axes: a single axis is the second."""
    first, second = values if len(values) == 2 else (1, *values)
    return first, second


Shape = tuple[int, int, int, int]


def _images(
    of: ConvSpec | Dense, size: Axes, padding: Sides, calls: int = 1
) -> tuple[Shape, Shape, tuple[int, int]]:
    """Shapes of input and output of a call, and the padding above and at the left."""
    given = (of.batch, of.in_channels // calls, *_two(size))
    written = (of.batch, of.out_channels // calls, *_two(of.output_size))
    (top, _), (left, _) = padding if len(padding) == 2 else ((0, 0), *padding)
    return given, written, (top, left)


def _contiguous(batch: int, channels: int, height: int, width: int) -> Images:
    pixels = height * width
    return images((batch, channels, height, width), (channels * pixels, pixels, width, 1))
