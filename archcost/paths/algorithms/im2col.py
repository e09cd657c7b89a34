"""Convolution as one matrix product: the pixels under the kernel become the columns of a matrix.

A row of the matrix for each weight of a filter, a column for each position; every pixel appears once for
each position that sees it, so that the matrix is larger than the input by the taps of the kernel (divided by
the stride). A transposed convolution is the same backwards: the product comes first, and its rows are added
up where they overlap (col2im).
"""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from archcost.kernels import library
from archcost.paths.algorithms.tensor import Fused, TensorPath, WholePath
from archcost.paths.compiled import GROUPED, Kernel, im2col_kernel
from archcost.paths.geometry import by_groups, cropped, full_size, padded, padded_elements, tap_windows
from archcost.paths.precision import compute_dtype, sum_error
from archcost.spec import ConvSpec

__all__ = ["Im2colPath", "TiledIm2colPath", "col2im", "im2col", "matrix_elements", "windowed"]

# Size of a block of the tiled form: it fits into the second-level cache of most machines.
BLOCK_BYTES = 256 * 1024


def im2col(x: Tensor, spec: ConvSpec) -> Tensor:
    """(batch, channels, *padded_size) to (batch, channels * taps, positions)."""
    axes = spec.axes
    # The taps go beside the channels; only flattening copies.
    positions, taps = range(2, 2 + axes), range(2 + axes, 2 + 2 * axes)
    return windowed(x, spec).permute(0, 1, *taps, *positions).flatten(1, 1 + axes).flatten(2)


def windowed(x: Tensor, spec: ConvSpec) -> Tensor:
    """(batch, channels, *padded_size) to (batch, channels, *positions, *taps): a view."""
    columns = zip(spec.extent, spec.stride, spec.dilation, strict=True)
    for axis, (extent, stride, dilation) in enumerate(columns):
        x = x.unfold(2 + axis, extent, stride)[..., ::dilation]
    return x


def col2im(columns: Tensor, spec: ConvSpec) -> Tensor:
    """(batch, channels * taps, positions) to (batch, channels, *full_size): overlapping pixels are added."""
    kernel = spec.kernel_size
    columns = columns.unflatten(2, spec.input_size).unflatten(1, (-1, *kernel))
    columns = columns.movedim(tuple(range(2, 2 + len(kernel))), tuple(range(-len(kernel), 0)))
    y = columns.new_zeros(columns.shape[0], columns.shape[1], *full_size(spec))
    for tap, window in tap_windows(spec):
        y[window] += columns[tap]
    return y


def matrix_elements(spec: ConvSpec) -> int:
    """Elements of the whole batch's matrix, channels * taps * positions; 0 where it is the input."""
    channels, positions = spec.in_channels, spec.output_size
    if spec.transposed:
        channels, positions = spec.out_channels, spec.input_size
    taps = spec.kernel_size
    if max(taps) == 1 and (spec.transposed or max(spec.stride) == 1):
        return 0
    rows: int = channels * prod(taps)
    return spec.batch * rows * prod(positions)


class Im2colPath(TensorPath[Tensor]):
    """The whole matrix, then one product for each group."""

    name = "im2col"
    idea = "the pixels under the kernel copied into a matrix, then one matrix product"
    limits = "everything: 1 to 3 axes, groups, stride, dilation, transposed, every padding mode"
    source = "K. Chellapilla, S. Puri and P. Simard, High Performance Convolutional Neural Networks, 2006"

    def _prepare(self, weight: Tensor, spec: ConvSpec) -> Tensor | Fused:
        return self._matrix(weight, spec)

    def _matrix(self, weight: Tensor, spec: ConvSpec) -> Tensor:
        """(groups, out, in * taps); transposed (groups, out * taps, in)."""
        grouped = by_groups(weight.to(compute_dtype(weight.dtype)), spec)
        return grouped.movedim(2, -1).flatten(1, -2) if spec.transposed else grouped.flatten(2)

    def _run(self, x: Tensor, weight: Tensor, spec: ConvSpec) -> Tensor:
        if spec.transposed:
            columns = self._product(weight, x.flatten(2).unflatten(1, (spec.groups, -1)), spec)
            return cropped(col2im(columns.flatten(1, 2), spec), spec)
        columns = im2col(padded(x, spec), spec).unflatten(1, (spec.groups, -1))
        y: Tensor = self._product(weight, columns, spec).flatten(1, 2).unflatten(2, spec.output_size)
        return y

    def _product(self, weight: Tensor, columns: Tensor, spec: ConvSpec) -> Tensor:
        """(groups, rows, inner) by (batch, groups, inner, positions)."""
        return weight @ columns

    def multiplications(self, spec: ConvSpec) -> int:
        """Those of the definition: the matrix product multiplies what it multiplies, ``spec.macs``."""
        return spec.macs

    def workspace_bytes(self, spec: ConvSpec, itemsize: int = 4) -> int:
        """The padded input and the matrix; transposed, the output before its padding is cut away."""
        full = spec.batch * spec.out_channels * prod(full_size(spec)) if spec.transposed else 0
        return itemsize * (padded_elements(spec) + matrix_elements(spec) + full)

    def stated_error(self, spec: ConvSpec, dtype: torch.dtype) -> float:
        return sum_error(spec, dtype)


class TiledIm2colPath(WholePath, Im2colPath):
    """A block of positions at a time, so that its part of the matrix stays in the cache.

    The compiled kernel goes further: it copies each pixel once, and reads it in place for every tap.
    """

    name = "im2col-tiled"
    idea = f"im2col by blocks of positions, {BLOCK_BYTES // 1024} KiB of the matrix at a time"

    def compiled_for(self) -> str:
        return f"1 and 2 axes, any stride and dilation; not transposed{GROUPED}" if library() else ""

    def _kernel(self, spec: ConvSpec) -> Kernel | None:
        return im2col_kernel(spec)

    def _tensors(self, weight: Tensor, spec: ConvSpec) -> Tensor:
        return self._matrix(weight, spec)

    def _run(self, x: Tensor, weight: Tensor, spec: ConvSpec) -> Tensor:
        rows = block_rows(spec, x.element_size())
        return self._spread(x, weight, spec, rows) if spec.transposed else self._gather(x, weight, spec, rows)

    def _gather(self, x: Tensor, weight: Tensor, spec: ConvSpec, rows: int) -> Tensor:
        x = padded(x, spec)
        stride, extent, height = spec.stride[0], spec.extent[0], spec.output_size[0]
        y = x.new_empty(x.shape[0], spec.out_channels, *spec.output_size)
        for image in range(x.shape[0]):
            for top in range(0, height, rows):
                bottom = min(top + rows, height)
                seen = x[image : image + 1, :, top * stride : (bottom - 1) * stride + extent]
                y[image, :, top:bottom] = self._block(seen, weight, spec).unflatten(
                    1, (-1, *spec.output_size[1:])
                )
        return y

    def _block(self, x: Tensor, weight: Tensor, spec: ConvSpec) -> Tensor:
        """(1, in_channels, *rows of the padded input) to (out_channels, positions)."""
        columns = im2col(x, spec).unflatten(1, (spec.groups, -1))
        return self._product(weight, columns, spec).flatten(0, 2)

    def _spread(self, x: Tensor, weight: Tensor, spec: ConvSpec, rows: int) -> Tensor:
        from dataclasses import replace

        stride, extent = spec.stride[0], spec.extent[0]
        height, *others = spec.input_size
        y = x.new_zeros(x.shape[0], spec.out_channels, *full_size(spec))
        for image in range(x.shape[0]):
            for top in range(0, height, rows):
                bottom = min(top + rows, height)
                seen = x[image : image + 1, :, top:bottom].flatten(2).unflatten(1, (spec.groups, -1))
                part = replace(spec, input_size=(bottom - top, *others), padding=0, output_padding=0)
                block = col2im(self._product(weight, seen, spec).flatten(1, 2), part)
                y[image, :, top * stride : (bottom - 1) * stride + extent] += block[0]
        return cropped(y, spec)

    def _elements(self, spec: ConvSpec, itemsize: int) -> int:
        """The padded input, one block of the matrix and what it gives."""
        rows = block_rows(spec, itemsize)
        height, *others = spec.input_size if spec.transposed else spec.output_size
        rows = min(rows, height)
        share = matrix_elements(spec) // (spec.batch * height) * rows
        result = spec.out_channels * rows * prod(others)
        full = 0
        if spec.transposed:
            row = prod(full_size(spec)[1:])
            result = spec.out_channels * row * ((rows - 1) * spec.stride[0] + spec.extent[0])
            full = spec.batch * spec.out_channels * prod(full_size(spec))
        return padded_elements(spec) + share + result + full


def block_rows(spec: ConvSpec, itemsize: int) -> int:
    """Rows of positions in one block: as many as fit into BLOCK_BYTES, at least one."""
    height = spec.input_size[0] if spec.transposed else spec.output_size[0]
    row = itemsize * matrix_elements(spec) // (spec.batch * height)
    return max(1, BLOCK_BYTES // row) if row else height


PATHS = (Im2colPath(), TiledIm2colPath())
ORDER = 50
