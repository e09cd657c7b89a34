"""Convolution by Fourier transforms: a product at each frequency in place of a sum over taps.

The whole image is one transform, or it is cut into tiles of t pixels an axis that overlap by taps - 1
(overlap-save): a tile gives t - taps + 1 outputs, the rest of it wraps around and is thrown away. The cost
hardly depends on the kernel, so that large kernels are its home: depthwise ones, and one-dimensional ones of
many taps.

A stride is taken by phases, or by computing every output and throwing most away, whichever multiplies less
by its own count.
"""

from __future__ import annotations

from dataclasses import replace
from math import log2, prod

import torch
from torch import Tensor

from archcost.kernels import library
from archcost.paths.algorithms.fourier import (
    MOST_LENGTH,
    good_length,
    real_transform_multiplications,
    transformed,
)
from archcost.paths.algorithms.space_to_depth import spread
from archcost.paths.algorithms.tiling import TiledPath, point_products, tiled, untiled
from archcost.paths.compiled import GROUPED, Kernel, fourier_kernel
from archcost.paths.geometry import Axes, trailing
from archcost.paths.phases import Dense, phases
from archcost.paths.precision import sum_error
from archcost.spec import ConvSpec

__all__ = ["FFTPath"]

# A path refuses what needs more: transformed weights of wide layers on large images fill any memory.
MOST_BYTES = 4 << 30
# With so few tiles and so many weights, in elements, reading these takes longer than multiplying.
_FEW_TILES = 4
_MANY_WEIGHTS = 1 << 18


class FFTPath(TiledPath):
    """Real transforms of tiles of ``tile`` pixels an axis; None for the whole image."""

    source = "M. Mathieu, M. Henaff and Y. LeCun, Fast Training of Convolutional Networks through FFTs, 2013"

    def __init__(self, tile: int | None = None) -> None:
        self.tile = tile
        self.name = "fft" if tile is None else f"fft-{tile}"
        where = "the whole image" if tile is None else f"overlapping tiles of {tile} pixels an axis"
        self.idea = f"FFT{'s' * (tile is not None)} of {where}, products by frequency"
        most = "" if tile is None else f"; kernels of at most {tile} taps an axis"
        self.limits = (
            f"1 to 3 axes, groups, every padding mode; dilation and transposed by phases, stride by phases, "
            f"by discarding or by space to depth{most}"
        )

    def _refuses(self, spec: ConvSpec) -> str | None:
        longest = self._longest(spec)
        if not self._fits(longest):
            return f"a kernel of {longest} taps does not fit into tiles of {self.tile}"
        needed = self._bytes(spec, 4)
        if needed > MOST_BYTES:
            return (
                f"weights and pixels transformed would take {needed / 2**30:.1f} GiB of memory, "
                f"more than {MOST_BYTES / 2**30:.0f}"
            )
        return None

    def _kernel(self, dense: Dense) -> Kernel | None:
        return fourier_kernel(dense, self.points(dense), self._gauss(dense))

    def compiled_for(self) -> str:
        if library() is None or (self.tile or 0) > MOST_LENGTH:
            return ""
        rows = f", on rows up to {MOST_LENGTH} pixels" if self.tile is None else ""
        return f"kernels of one row, 1-d and 1xN, and such phases{rows}{GROUPED}"

    def points(self, dense: Dense) -> Axes:
        """The length of the transform of each axis; 1 where the kernel has a single tap."""
        whole = [n + r - 1 for n, r in zip(dense.output_size, dense.kernel_size, strict=True)]
        lengths = [good_length(n) if self.tile is None else min(self.tile, good_length(n)) for n in whole]
        return tuple(t if r > 1 else 1 for t, r in zip(lengths, dense.kernel_size, strict=True))

    def _fits(self, taps: int) -> bool:
        return self.tile is None or taps <= self.tile

    def _transform(self, taps: Tensor, dense: Dense) -> Tensor:
        """(forms, points, groups, in, out): for complex numbers c + id the forms c, d - c and c + d that
        Gauss's three products want; c and d alone where there is nothing to sum."""
        axes, lengths = len(dense.kernel_size), self.points(dense)
        if not transformed(lengths):
            return taps.permute(*range(3, 3 + axes), 0, 2, 1).flatten(0, axes - 1).unsqueeze(0)
        spectrum = torch.fft.rfftn(taps, [lengths[a] for a in transformed(lengths)], _dims(lengths)).conj()
        spectrum = spectrum.permute(*range(3, 3 + axes), 0, 2, 1).flatten(0, axes - 1)
        c, d = spectrum.real, spectrum.imag
        return torch.stack([c, d - c, c + d] if self._gauss(dense) else [c, d])

    def _dense(self, x: Tensor, weight: Tensor, dense: Dense) -> Tensor:
        axes, lengths, tiles = len(dense.kernel_size), self.points(dense), self.tiles(dense)
        x = tiled(x, dense, lengths, self.outputs(dense), tiles)
        batch = x.shape[0]
        if transformed(lengths):
            x = torch.fft.rfftn(x, dim=_dims(lengths))
        points = x.shape[2 + axes :]

        # (batch, channels, *tiles, *points) to (points, groups, batch * tiles, in)
        x = x.permute(*range(2 + axes, 2 + 2 * axes), 0, *range(2, 2 + axes), 1)
        x = x.reshape(prod(points), batch * prod(tiles), dense.groups, -1).transpose(1, 2)
        y = (
            complex_products(x, weight, _real_ends(dense, lengths))
            if x.is_complex()
            else point_products(x, weight[0])
        )
        del x

        y = y.unflatten(2, (batch, *tiles)).unflatten(0, points)
        order = (axes + 1, axes, 2 * axes + 2, *range(axes + 2, 2 * axes + 2), *range(axes))
        y = y.permute(*order).flatten(1, 2)
        if transformed(lengths):
            y = torch.fft.irfftn(y, [lengths[a] for a in transformed(lengths)], _dims(lengths))
        return untiled(y[trailing(map(slice, self.outputs(dense)))], dense.output_size)

    def _gauss(self, dense: Dense) -> bool:
        """Whether two complex numbers take three products, with half as many weights again, or four.

        Four where there is nothing to sum, and where a row has few tiles and so many weights that reading
        them takes longer than multiplying.
        """
        lengths = self.points(dense)
        row = len(transformed(lengths)) == 1
        weights = 2 * _frequencies(lengths) * dense.in_channels * dense.out_channels // dense.groups
        few = dense.batch * prod(self.tiles(dense)) <= _FEW_TILES
        return not dense.depthwise and not (row and few and weights > _MANY_WEIGHTS)

    def _products(self, dense: Dense) -> int:
        """At each frequency kept, t ** (axes - 1) * (t // 2 + 1) of them, three real multiplications for
        each pair of channels (Gauss), or four, see `_gauss`; along a single axis the first and
        the last frequency are real and take one each. Outputs that stride discards and tiles that reach
        beyond the image are paid for."""
        lengths = self.points(dense)
        pairs = dense.in_channels * dense.out_channels // dense.groups
        if not transformed(lengths):
            each = 1
        else:
            forms = 3 if self._gauss(dense) else 4
            each = forms * _frequencies(lengths) - (2 * (forms - 1) if _real_ends(dense, lengths) else 0)
        return dense.batch * prod(self.tiles(dense)) * pairs * each

    def _transforms(self, dense: Dense) -> int:
        """Forth for each input channel, back for each output channel."""
        one = real_transform_multiplications(self.points(dense))
        return dense.batch * prod(self.tiles(dense)) * (dense.in_channels + dense.out_channels) * one

    def _weights(self, dense: Dense) -> int:
        lengths = self.points(dense)
        forms = (3 if self._gauss(dense) else 2) if transformed(lengths) else 1
        return forms * _frequencies(lengths) * dense.in_channels * dense.out_channels // dense.groups

    def _buffers(self, dense: Dense) -> int:
        """The input filled up to whole tiles; its complex numbers twice, and the products with what they are
        put together from."""
        lengths = self.points(dense)
        each = 4 if transformed(lengths) else 1
        points = dense.batch * prod(self.tiles(dense)) * _frequencies(lengths)
        return self._filled(dense) + each * points * (dense.in_channels + dense.out_channels)

    def _executed(self, spec: ConvSpec) -> ConvSpec:
        """With the stride kept, or set to 1 and its outputs discarded, or as channels: whichever multiplies
        least."""
        if spec.transposed or max(spec.stride) == 1:
            return spec
        ways = (spread(spec), spec, replace(spec, stride=1))
        return min((way for way in ways if way is not None), key=self._all_multiplications)

    def stated_error(self, spec: ConvSpec, dtype: torch.dtype) -> float:
        """The error of a sum over channels and phases, and of each pass of the transform."""
        longest = max((prod(self.points(p.dense)) for p in phases(self._executed(spec))), default=1)
        return sum_error(spec, dtype, factor=1 + log2(longest) / 4, length=self._summed(spec))


def complex_products(x: Tensor, weight: Tensor, real_ends: bool = False) -> Tensor:
    """(a + ib) (c + id) at every frequency, by the forms of the weights that `FFTPath._transform` made."""
    if real_ends:
        first, last = (point_products(x[one].real, weight[0, one]) for one in (slice(1), slice(-1, None)))
        return torch.cat([first, complex_products(x[1:-1], weight[:, 1:-1]), last])
    a, b = x.real, x.imag
    if len(weight) == 2:
        c, d = weight
        return torch.complex(
            point_products(a, c) - point_products(b, d), point_products(a, d) + point_products(b, c)
        )
    c, d_less_c, c_and_d = weight
    k = point_products(a + b, c)
    return torch.complex(k - point_products(b, c_and_d), k + point_products(a, d_less_c))


def _dims(lengths: Axes) -> list[int]:
    return [axis - len(lengths) for axis in transformed(lengths)]


def _frequencies(lengths: Axes) -> int:
    axes = transformed(lengths)
    return prod(lengths[a] // 2 + 1 if a == axes[-1] else lengths[a] for a in axes)


def _real_ends(dense: Dense, lengths: Axes) -> bool:
    """Whether the first and the last frequency are multiplied as the real numbers that they are."""
    axes = transformed(lengths)
    return len(axes) == 1 and lengths[axes[0]] % 2 == 0 and not dense.depthwise


PATHS = (FFTPath(), *(FFTPath(tile) for tile in (16, 32, 64, 80, 96, 128, 160, 256, 512, 1024)))
ORDER = 80
