"""Depthwise convolution with large kernels: transforms along the rows, the sum over the kernel's rows kept.

    y[i] = transformed back:  sum over the kernel's rows a of  X[i + a] * conj(W[a])

X is the transform of each row of the image, W that of each row of the kernel. A second transform, along the
columns, would save products, but those it leaves are few already and run at full speed, as a transform does
not. Rows are transformed whole; the zeros on their left and on their right may be the same ones, because the
transform is circular.
"""

from __future__ import annotations

from itertools import product
from math import log2, prod

import torch
import torch.nn.functional as F
from torch import Tensor

from archcost.kernels import library
from archcost.paths.algorithms.fourier import MOST_LENGTH, good_length, real_transform_multiplications
from archcost.paths.algorithms.phased import PhasedPath
from archcost.paths.compiled import Kernel, rows_kernel
from archcost.paths.geometry import trailing
from archcost.paths.phases import Dense, phases, summed_phases
from archcost.paths.precision import sum_error
from archcost.spec import ConvSpec

__all__ = ["FFTRowsPath"]


class FFTRowsPath(PhasedPath):
    """Along the last axis by transforms, along the others by the definition."""

    name = "fft-rows"
    idea = "FFTs of the rows, products by frequency, summed over the rows of the kernel; depthwise"
    limits = "depthwise, 1 to 3 axes, every padding mode; stride, dilation and transposed by phases"
    source = "one axis of M. Mathieu, M. Henaff and Y. LeCun, Fast Training through FFTs, 2013"

    def _refuses(self, spec: ConvSpec) -> str | None:
        if spec.groups != spec.in_channels:
            return "only depthwise layers have so few products that a sum over the kernel's rows is cheap"
        if max((phase.dense.kernel_size[-1] for phase in phases(spec)), default=1) == 1:
            return "a kernel of one tap along the rows leaves nothing to transform"
        return None

    def _kernel(self, dense: Dense) -> Kernel | None:
        return rows_kernel(dense, _length(dense))

    def compiled_for(self) -> str:
        if library() is None:
            return ""
        return (
            f"1 and 2 axes, as many filters as channels, rows up to {MOST_LENGTH} pixels with their padding"
        )

    def _transform(self, taps: Tensor, dense: Dense) -> Tensor:
        """(out, *rows of the kernel, frequencies, 2): real and imaginary parts."""
        spectrum = torch.fft.rfft(taps.flatten(0, 2), _length(dense)).conj()
        return torch.view_as_real(spectrum.resolve_conj())

    def _dense(self, x: Tensor, weight: Tensor, dense: Dense) -> Tensor:
        length, (low, _) = _length(dense), dense.padding[-1]
        rows, seen = dense.kernel_size[:-1], dense.output_size[:-1]
        # Rows of zeros are padded when transformed: their spectrum is zero.
        flat = [side for pair in reversed(dense.padding[:-1]) for side in pair]
        x = F.pad(torch.fft.rfft(x, length), [0, 0, *flat])
        x = x.repeat_interleave(dense.out_channels // dense.in_channels, 1)
        spectrum = torch.view_as_complex(weight)
        y = x.new_zeros(*x.shape[:2], *seen, x.shape[-1])
        for row in product(*map(range, rows)):
            window = trailing((*(slice(a, a + n) for a, n in zip(row, seen, strict=True)), slice(None)))
            factor = spectrum[trailing((*row, slice(None)))]
            y += x[window] * factor.reshape(-1, *(1,) * len(seen), factor.shape[-1])
        # Output j stands `low` places before its first tap: the first ones come from the end of the circle.
        rolled: Tensor = torch.fft.irfft(y, length).roll(low, -1)
        return rolled[..., : dense.output_size[-1]]

    def _products(self, dense: Dense) -> int:
        """For each row of the output and of the kernel, t // 2 + 1 frequencies of four multiplications.

        The compiled kernel leaves out some of the kernel's rows that lie outside the image.
        """
        rows = prod(dense.output_size[:-1]) * prod(dense.kernel_size[:-1])
        return dense.batch * dense.out_channels * rows * 4 * _frequencies(dense)

    def _transforms(self, dense: Dense) -> int:
        """Forth for each row of the input, back for each row of the output."""
        given = dense.in_channels * prod(dense.input_size[:-1])
        written = dense.out_channels * prod(dense.output_size[:-1])
        return dense.batch * (given + written) * real_transform_multiplications((_length(dense),))

    def _weights(self, dense: Dense) -> int:
        return 2 * _frequencies(dense) * prod(dense.kernel_size[:-1]) * dense.out_channels

    def _buffers(self, dense: Dense) -> int:
        """The spectra of the rows, before and behind padding and repeating them; those of the output three
        times while they are summed, or the outputs that they are transformed into."""
        given = dense.in_channels * prod(dense.input_size[:-1])
        seen = (dense.in_channels + dense.out_channels) * prod(dense.padded_size[:-1])
        written = dense.out_channels * prod(dense.output_size[:-1])
        return dense.batch * 2 * _frequencies(dense) * (given + seen + 3 * written)

    def stated_error(self, spec: ConvSpec, dtype: torch.dtype) -> float:
        """The error of a sum over the kernel's rows and phases, and of each pass of the transform."""
        longest = max((_length(phase.dense) for phase in phases(spec)), default=1)
        rows = prod(spec.kernel_size[:-1]) * summed_phases(spec)
        return sum_error(spec, dtype, factor=1 + log2(longest) / 4, length=rows)


def _length(dense: Dense) -> int:
    """The length of the transform of a row: room for the row and the larger of its paddings."""
    low, high = dense.padding[-1]
    row = dense.input_size[-1]
    return good_length(max(row + low, row + high, dense.kernel_size[-1]))


def _frequencies(dense: Dense) -> int:
    return _length(dense) // 2 + 1


PATHS = (FFTRowsPath(),)
ORDER = 90
