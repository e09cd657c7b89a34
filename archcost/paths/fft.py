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
from functools import lru_cache
from math import log2, prod
from typing import Any

import torch

from archcost.paths.geometry import Axes, spatial, trailing
from archcost.paths.phases import Dense, PhasedPath, phases
from archcost.paths.precision import sum_error
from archcost.paths.products import filling_elements, point_products, tiled, untiled
from archcost.spec import ConvSpec

__all__ = ["FFTPath"]


class FFTPath(PhasedPath):
    """Real transforms of tiles of ``tile`` pixels an axis; None for the whole image."""

    source = "M. Mathieu, M. Henaff and Y. LeCun, Fast Training of Convolutional Networks through FFTs, 2013"

    def __init__(self, tile: int | None = None) -> None:
        self.tile = tile
        self.name = "fft" if tile is None else f"fft-{tile}"
        where = "the whole image" if tile is None else f"overlapping tiles of {tile} pixels an axis"
        self.idea = f"products at each frequency, over {where}"
        most = "" if tile is None else f"; kernels of at most {tile} taps an axis"
        self.limits = (
            f"1 to 3 axes, groups, every padding mode; dilation and transposed by phases, stride by phases "
            f"or by discarding{most}"
        )

    def _refuses(self, spec: ConvSpec) -> str | None:
        if self.tile is None:
            return None
        longest = max((max(p.dense.kernel_size) for p in phases(self._cheaper(spec))), default=1)
        if longest > self.tile:
            return f"a kernel of {longest} taps does not fit into tiles of {self.tile}"
        return None

    def _lengths(self, dense: Dense) -> Axes:
        """Of the transform of each axis; 1 where the kernel has one tap and there is nothing to transform."""
        whole = [n + r - 1 for n, r in zip(dense.output_size, dense.kernel_size, strict=True)]
        lengths = [good_length(n) if self.tile is None else min(self.tile, good_length(n)) for n in whole]
        return tuple(t if r > 1 else 1 for t, r in zip(lengths, dense.kernel_size, strict=True))

    def _outputs(self, dense: Dense) -> Axes:
        return tuple(t - r + 1 for t, r in zip(self._lengths(dense), dense.kernel_size, strict=True))

    def _tiles(self, dense: Dense) -> Axes:
        return tuple(-(-n // m) for n, m in zip(dense.output_size, self._outputs(dense), strict=True))

    def _transform(self, taps: torch.Tensor, dense: Dense) -> torch.Tensor:
        """(forms, points, groups, in, out): for complex numbers c + id the forms c, d - c and c + d that
        Gauss's three products want; c and d alone where there is nothing to sum."""
        axes, lengths = len(dense.kernel_size), self._lengths(dense)
        if not _transformed(lengths):
            return taps.permute(*range(3, 3 + axes), 0, 2, 1).flatten(0, axes - 1).unsqueeze(0)
        spectrum = torch.fft.rfftn(taps, [lengths[a] for a in _transformed(lengths)], _dims(lengths)).conj()
        spectrum = spectrum.permute(*range(3, 3 + axes), 0, 2, 1).flatten(0, axes - 1)
        c, d = spectrum.real, spectrum.imag
        return torch.stack([c, d] if _depthwise(dense) else [c, d - c, c + d])

    def _dense(self, x: torch.Tensor, weight: torch.Tensor, dense: Dense) -> torch.Tensor:
        axes, lengths, tiles = len(dense.kernel_size), self._lengths(dense), self._tiles(dense)
        x = tiled(x, lengths, self._outputs(dense), tiles)
        batch = x.shape[0]
        if _transformed(lengths):
            x = torch.fft.rfftn(x, dim=_dims(lengths))
        points = x.shape[2 + axes :]

        # (batch, channels, *tiles, *points) to (points, groups, batch * tiles, in)
        x = x.permute(*range(2 + axes, 2 + 2 * axes), 0, *range(2, 2 + axes), 1)
        x = x.reshape(prod(points), batch * prod(tiles), dense.groups, -1).transpose(1, 2)
        y = complex_products(x, weight) if x.is_complex() else point_products(x, weight[0])
        del x

        y = y.unflatten(2, (batch, *tiles)).unflatten(0, points)
        order = (axes + 1, axes, 2 * axes + 2, *range(axes + 2, 2 * axes + 2), *range(axes))
        y = y.permute(*order).flatten(1, 2)
        if _transformed(lengths):
            y = torch.fft.irfftn(y, [lengths[a] for a in _transformed(lengths)], _dims(lengths))
        return untiled(y[trailing(map(slice, self._outputs(dense)))], dense.output_size)

    def _products(self, dense: Dense) -> int:
        """At each frequency kept, t ** (axes - 1) * (t // 2 + 1) of them, three real multiplications for
        each pair of channels (Gauss), four where there is nothing to sum; outputs that stride discards and
        tiles that reach beyond the image are paid for."""
        pairs = dense.in_channels * dense.out_channels // dense.groups
        lengths = self._lengths(dense)
        each = (4 if _depthwise(dense) else 3) if _transformed(lengths) else 1
        return dense.batch * prod(self._tiles(dense)) * pairs * each * _frequencies(lengths)

    def _transforms(self, dense: Dense) -> int:
        """Forth for each input channel, back for each output channel."""
        one = real_transform_multiplications(self._lengths(dense))
        return dense.batch * prod(self._tiles(dense)) * (dense.in_channels + dense.out_channels) * one

    def _weights(self, dense: Dense) -> int:
        lengths = self._lengths(dense)
        forms = (2 if _depthwise(dense) else 3) if _transformed(lengths) else 1
        return forms * _frequencies(lengths) * dense.in_channels * dense.out_channels // dense.groups

    def _buffers(self, dense: Dense) -> int:
        """The input filled up to whole tiles; its complex numbers twice, and the products with what they are
        put together from."""
        tiles, outputs, lengths = self._tiles(dense), self._outputs(dense), self._lengths(dense)
        whole = [(n - 1) * m + size for n, m, size in zip(tiles, outputs, lengths, strict=True)]
        filled = filling_elements(dense.batch * dense.in_channels, whole, dense.input_size)
        each = 4 if _transformed(lengths) else 1
        points = dense.batch * prod(tiles) * _frequencies(lengths)
        return filled + each * points * (dense.in_channels + dense.out_channels)

    # A stride is kept, or set to 1 and its outputs discarded: every question is asked of the cheaper spec.

    def _cheaper(self, spec: ConvSpec) -> ConvSpec:
        if spec.transposed or max(spatial(spec, "stride")) == 1:
            return spec
        return min((spec, replace(spec, stride=1)), key=self._all_multiplications)

    def _all_multiplications(self, spec: ConvSpec) -> int:
        if self.tile is not None and max(max(p.dense.kernel_size) for p in phases(spec)) > self.tile:
            return 1 << 100
        return super().multiplications(spec) + super().transform_multiplications(spec)

    def _prepare(self, weight: torch.Tensor, spec: ConvSpec) -> Any:
        return super()._prepare(weight, self._cheaper(spec))

    def _run(self, x: torch.Tensor, content: Any, spec: ConvSpec) -> torch.Tensor:
        chosen = self._cheaper(spec)
        y = super()._run(x, content, chosen)
        if chosen is spec:
            return y
        return y[trailing(slice(None, None, step) for step in spatial(spec, "stride"))]

    def multiplications(self, spec: ConvSpec) -> int:
        return super().multiplications(self._cheaper(spec))

    def transform_multiplications(self, spec: ConvSpec) -> int:
        return super().transform_multiplications(self._cheaper(spec))

    def workspace_bytes(self, spec: ConvSpec, itemsize: int = 4) -> int:
        chosen = self._cheaper(spec)
        discarded = 0 if chosen is spec else itemsize * (chosen.neurons - spec.neurons)
        return super().workspace_bytes(chosen, itemsize) + discarded

    def stated_error(self, spec: ConvSpec, dtype: torch.dtype) -> float:
        """A sum's over the channels, and what each pass of the transform adds."""
        longest = max((prod(self._lengths(p.dense)) for p in phases(self._cheaper(spec))), default=1)
        channels = spec.in_channels // spec.groups
        return sum_error(spec, dtype, factor=1 + log2(longest) / 4, length=channels)


def complex_products(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """(a + ib) (c + id) at every frequency, by the forms of the weights that `FFTPath._transform` made."""
    a, b = x.real, x.imag
    if len(weight) == 2:
        c, d = weight
        return torch.complex(a * c - b * d, a * d + b * c)
    c, d_less_c, c_and_d = weight
    k = point_products(a + b, c)
    return torch.complex(k - point_products(b, c_and_d), k + point_products(a, d_less_c))


@lru_cache(maxsize=4096)
def good_length(n: int) -> int:
    """The next length without prime factors above 7, for which transforms are fast."""
    while True:
        rest = n
        for prime in (2, 3, 5, 7):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return n
        n += 1


def real_transform_multiplications(lengths: Axes) -> int:
    """Of one real transform of these lengths: lines of real numbers along the last axis, complex ones along
    the others.

    By split radix, N (log2 N - 3) + 4 for N complex numbers and half of it for real ones (P. Duhamel and
    H. Hollmann, "Split radix FFT algorithm", 1984); for other lengths than powers of two the same formula
    is an estimate.
    """
    axes = _transformed(lengths)
    if not axes:
        return 0
    *others, last = (lengths[a] for a in axes)
    total = prod(others) * _split_radix(last) / 2
    kept = last // 2 + 1
    for axis, n in enumerate(others):
        total += prod(others[:axis] + others[axis + 1 :]) * kept * _split_radix(n)
    return round(total)


def _split_radix(n: int) -> float:
    return max(0.0, n * (log2(n) - 3) + 4)


def _transformed(lengths: Axes) -> list[int]:
    """The axes that are transformed; the last of them by a real transform."""
    return [axis for axis, n in enumerate(lengths) if n > 1]


def _dims(lengths: Axes) -> list[int]:
    return [axis - len(lengths) for axis in _transformed(lengths)]


def _frequencies(lengths: Axes) -> int:
    axes = _transformed(lengths)
    return prod(lengths[a] // 2 + 1 if a == axes[-1] else lengths[a] for a in axes)


def _depthwise(dense: Dense) -> bool:
    return dense.in_channels == dense.groups


PATHS = (FFTPath(), *(FFTPath(tile) for tile in (16, 32, 64, 128, 256, 1024)))
