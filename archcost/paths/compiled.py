"""Which compiled kernel serves a plain convolution, its weights packed for it, and the memory it takes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from math import prod

import torch

from archcost import kernels
from archcost.kernels import tiles
from archcost.kernels.loading import Convolution, Images
from archcost.kernels.packed import Packed as PackedWeights
from archcost.kernels.tensors import images, loaded
from archcost.paths.geometry import Axes
from archcost.paths.phases import Dense
from archcost.spec import ConvSpec

__all__ = [
    "GROUPED",
    "DepthwiseKernel",
    "Im2colKernel",
    "Kernel",
    "Packed",
    "depthwise_kernel",
    "fourier_kernel",
    "im2col_kernel",
    "long_row_kernel",
    "rows_kernel",
    "winograd_kernel",
    "winograd_taps",
]

Packed = PackedWeights | tuple[PackedWeights, ...]

# A call for each group costs more than it gains where groups have fewer channels.
LEAST_GROUP_CHANNELS = 16
GROUPED = f"; groups of {LEAST_GROUP_CHANNELS} channels or more"


@dataclass(frozen=True)
class Kernel(ABC):
    """One kernel of the library, for one dense convolution of at most two axes in float32."""

    dense: Dense

    @abstractmethod
    def pack(self, taps: torch.Tensor) -> Packed:
        """From (groups, out, in, *kernel_size)."""

    @abstractmethod
    def packed_bytes(self) -> int:
        """Of the weights, once packed."""

    @abstractmethod
    def scratch_bytes(self) -> int:
        """Working memory of a call with as many threads as PyTorch has now."""


@dataclass(frozen=True)
class TileKernel(Kernel):
    """Winograd's tiles, or Fourier's along the row."""

    name: tuple[int, int, int]
    """As the C interface calls it: family, and two numbers."""
    outputs: tuple[int, int]
    """Of a tile."""

    def pack(self, taps: torch.Tensor) -> PackedWeights:
        weight = taps[0].float()
        return tiles.pack(weight.unsqueeze(2) if weight.dim() == 3 else weight, self.name, self.outputs, None)

    def packed_bytes(self) -> int:
        """As many numbers a pair of channels as a tile has products; output channels fill whole vectors."""
        channels = self.dense.out_channels, self.dense.in_channels
        return 4 * int(loaded().archcost_tiles_packed_floats(*self.name, *channels))

    def scratch_bytes(self) -> int:
        """Each thread's pixels of a block of tiles, and their products, of one block or one a thread."""
        return 4 * int(loaded().archcost_tiles_scratch_floats(*self.name, _problem(self.dense)))


@dataclass(frozen=True)
class GroupsKernel(Kernel):
    """A call for each group, on its channels as they lie; the outputs are put together at the end."""

    one: TileKernel

    def pack(self, taps: torch.Tensor) -> Packed:
        return tuple(self.one.pack(taps[g : g + 1]) for g in range(self.dense.groups))

    def packed_bytes(self) -> int:
        """Those of all groups."""
        return self.dense.groups * self.one.packed_bytes()

    def scratch_bytes(self) -> int:
        """One group's working memory, and all outputs once more."""
        outputs = self.dense.batch * self.dense.out_channels * prod(self.dense.output_size)
        return self.one.scratch_bytes() + 4 * outputs


@dataclass(frozen=True)
class RowsKernel(Kernel):
    """Transforms of whole rows, depthwise."""

    size: int

    def pack(self, taps: torch.Tensor) -> Packed:
        weight = taps.flatten(0, 1).float()
        weight = weight.unsqueeze(2) if weight.dim() == 3 else weight
        padding = ((0, 0), self.dense.padding[-1])
        return kernels.pack_depthwise(weight, self.dense.input_size[-1], padding=padding)

    def packed_bytes(self) -> int:
        """2 numbers a frequency, row of the kernel and channel; channels fill whole vectors."""
        return 4 * int(loaded().archcost_depthwise_packed_floats(*self._numbers(), self.dense.in_channels))

    def scratch_bytes(self) -> int:
        """The spectra of all rows of a vector of channels, of input and output, for each thread."""
        return 4 * int(loaded().archcost_depthwise_scratch_floats(*self._numbers(), _problem(self.dense)))

    def _numbers(self) -> tuple[int, int, int]:
        height, width = _two(self.dense.kernel_size)
        return height, width, self.size


@dataclass(frozen=True)
class LongRowKernel(Kernel):
    """Partitioned overlap-save along a sequence, all groups in one call."""

    step: int

    def pack(self, taps: torch.Tensor) -> Packed:
        return kernels.pack_long_row(taps.flatten(0, 1).float(), self.step, self.dense.groups)

    def packed_bytes(self) -> int:
        """2 numbers a frequency, part of the taps and pair of channels."""
        of, dense = loaded().archcost_long_row_packed_floats, self.dense
        channels = dense.out_channels, dense.in_channels // dense.groups
        return 4 * int(of(dense.kernel_size[-1], self.step, *channels))

    def scratch_bytes(self) -> int:
        """The spectra of all frames of a group's input, and each thread's of the frames that it sums up."""
        numbers = self.dense.kernel_size[-1], self.step, self.dense.groups
        return 4 * int(loaded().archcost_long_row_scratch_floats(*numbers, _problem(self.dense)))


@dataclass(frozen=True)
class Im2colKernel:
    """Blocks of the matrix, for a convolution with any steps."""

    spec: ConvSpec

    def pack(self, weight: torch.Tensor) -> Packed:
        """From (groups, out, in, *kernel_size)."""
        packed = tuple(kernels.pack_im2col(one.float()) for one in weight)
        return packed[0] if len(packed) == 1 else packed

    def packed_bytes(self) -> int:
        """The weights, output channels filled up to whole vectors."""
        groups, spec = self.spec.groups, self.spec
        channels = spec.out_channels // groups, spec.in_channels // groups
        return 4 * groups * int(loaded().archcost_im2col_packed_floats(*self._window(), *channels))

    def scratch_bytes(self) -> int:
        """The pixels that a block reads, or its part of the matrix, for each thread; of groups, all outputs
        once more."""
        spec = self.spec
        padding, size = spec.padding, spec.input_size
        (top, _), (left, _) = padding if len(padding) == 2 else ((0, 0), *padding)
        if spec.padding_mode != "zeros":  # written out before the call
            size = tuple(n + low + high for n, (low, high) in zip(size, padding, strict=True))
            top = left = 0
        problem = Convolution(
            input=_contiguous(spec.batch, spec.in_channels // spec.groups, *_two(size)),
            output=_contiguous(spec.batch, spec.out_channels // spec.groups, *_two(spec.output_size)),
            pad_top=top,
            pad_left=left,
            threads=torch.get_num_threads(),
        )
        outputs = spec.neurons if spec.groups > 1 else 0
        return 4 * (int(loaded().archcost_im2col_scratch_floats(*self._window(), problem)) + outputs)

    def _window(self) -> tuple[int, ...]:
        names = ("kernel_size", "stride", "dilation")
        return tuple(number for name in names for number in _two(getattr(self.spec, name)))


@dataclass(frozen=True)
class DepthwiseKernel:
    """The definition, a filter a channel, with any steps; its images are in channels_last."""

    spec: ConvSpec

    def pack(self, weight: torch.Tensor) -> Packed:
        """From (groups, 1, 1, *kernel_size)."""
        return kernels.pack_depthwise_direct(weight.flatten(0, 1).float())

    def bytes(self) -> int:
        """The weights once more; input and output, where they lie otherwise."""
        spec = self.spec
        images = spec.in_channels * prod(spec.input_size) * spec.batch + spec.neurons
        return 4 * (prod(spec.kernel_size) * spec.in_channels + images)


def depthwise_kernel(spec: ConvSpec) -> DepthwiseKernel | None:
    """Not for transposed convolutions, three axes, or several filters a channel."""
    plain = spec.groups == spec.in_channels == spec.out_channels and spec.axes < 3
    return DepthwiseKernel(spec) if plain and not spec.transposed else None


def im2col_kernel(spec: ConvSpec) -> Im2colKernel | None:
    """Not for transposed convolutions, three axes, or groups of few channels."""
    few = spec.groups > 1 and spec.in_channels // spec.groups < LEAST_GROUP_CHANNELS
    return None if spec.transposed or spec.axes > 2 or few else Im2colKernel(spec)


def winograd_kernel(dense: Dense, outputs: Axes) -> Kernel | None:
    if len(outputs) > 2:
        return None
    wanted = _two(outputs), _two(dense.kernel_size)
    for place, tile in enumerate(kernels.winograd_tiles()):
        if (tile.outputs, tile.taps) == wanted:
            return _by_groups(dense, (tiles.WINOGRAD, place, 0), tile.outputs)
    return None


def winograd_taps(m: int) -> list[str]:
    """The kernels that have tiles of m outputs, as "3x3"; none without the library."""
    if kernels.library() is None:
        return []
    fitting = [tile for tile in kernels.winograd_tiles() if max(tile.outputs) == m]
    return [f"{height}x{width}" for height, width in sorted({tile.taps for tile in fitting})]


def fourier_kernel(dense: Dense, lengths: Axes) -> Kernel | None:
    """For a kernel of one row whose transforms have these lengths."""
    taps, size = dense.kernel_size[-1], lengths[-1]
    along_row = len(lengths) == 1 or (len(lengths) == 2 and dense.kernel_size[0] == 1)
    if dense.depthwise or not along_row or taps == 1 or kernels.fft_size(size) != size:
        return None
    return _by_groups(dense, (tiles.FOURIER, size, taps), (1, size - taps + 1))


def _by_groups(dense: Dense, name: tuple[int, int, int], outputs: tuple[int, int]) -> Kernel | None:
    inputs, written = dense.in_channels // dense.groups, dense.out_channels // dense.groups
    one = TileKernel(replace(dense, in_channels=inputs, out_channels=written, groups=1), name, outputs)
    if dense.groups == 1:
        return one
    return GroupsKernel(dense, one) if inputs >= LEAST_GROUP_CHANNELS else None


def rows_kernel(dense: Dense, size: int) -> Kernel | None:
    """For a depthwise convolution whose rows are transformed at this length."""
    plain = dense.depthwise and dense.out_channels == dense.groups and len(dense.kernel_size) < 3
    return RowsKernel(dense, size) if plain and kernels.fft_size(size) == size else None


def long_row_kernel(dense: Dense, step: int) -> Kernel | None:
    """For one axis, cut into frames so many pixels apart."""
    one_axis = len(dense.kernel_size) == 1 and kernels.fft_size(2 * step) == 2 * step
    return LongRowKernel(dense, step) if one_axis else None


def _two(values: Axes) -> tuple[int, int]:
    """Of two axes; one axis is the second of them."""
    first, second = values if len(values) == 2 else (1, *values)
    return first, second


def _problem(dense: Dense) -> Convolution:
    """A call on contiguous images, as the C interface is told of it."""
    (top, _), (left, _) = dense.padding if len(dense.padding) == 2 else ((0, 0), *dense.padding)
    given, written = _two(dense.input_size), _two(dense.output_size)
    return Convolution(
        input=_contiguous(dense.batch, dense.in_channels, *given),
        output=_contiguous(dense.batch, dense.out_channels, *written),
        pad_top=top,
        pad_left=left,
        threads=torch.get_num_threads(),
    )


def _contiguous(batch: int, channels: int, height: int, width: int) -> Images:
    pixels = height * width
    return images((batch, channels, height, width), (channels * pixels, pixels, width, 1))
