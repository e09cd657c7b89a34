"""Convolution of one axis with many taps: partitioned overlap-save.

    Y[f] = sum over the parts p of the taps of  X[f + p] * conj(W[p])

Taps are cut into parts of s, the signal into frames of 2 s that begin s apart; X and W are their transforms,
zeros behind the taps of a part. Transformed back, the first s numbers of Y[f] are the outputs from f * s on.
A kernel of thousands of taps needs no long transform, so that a few channels fill the vectors of the
processor with frames.
"""

from __future__ import annotations

from math import log2

import torch
import torch.nn.functional as F
from torch import Tensor

from archcost.kernels import library
from archcost.paths.algorithms.fourier import real_transform_multiplications
from archcost.paths.algorithms.phased import PhasedPath
from archcost.paths.compiled import Kernel, long_row_kernel
from archcost.paths.phases import Dense, phases, summed_phases
from archcost.paths.precision import sum_error
from archcost.spec import ConvSpec

__all__ = ["FFTPartsPath"]

_STEPS = (32, 64, 128, 256)
# Frames are transformed and summed up so many at a time, about.
_AT_ONCE = 16
_LEAST_TAPS = 64


class FFTPartsPath(PhasedPath):
    """Frames and parts of the taps, by transforms of one size for all."""

    name = "fft-parts"
    idea = "FFTs of frames of a sequence and of parts of its many taps, products by frequency"
    limits = (
        f"1 axis, {_LEAST_TAPS} taps or more, groups, every padding mode; stride, dilation and transposed by "
        f"phases"
    )
    source = (
        "A. Torger and A. Farina, Real-time partitioned convolution for Ambiophonics surround sound, 2001; "
        "T. G. Stockham, High-speed convolution and correlation, 1966"
    )

    def _refuses(self, spec: ConvSpec) -> str | None:
        if spec.axes != 1:
            return "it is for sequences, of one axis"
        taps = max((phase.dense.kernel_size[0] for phase in phases(spec)), default=1)
        if taps < _LEAST_TAPS:
            return f"{taps} taps are too few to be cut into parts: it is for {_LEAST_TAPS} or more"
        return None

    def _kernel(self, dense: Dense) -> Kernel | None:
        return long_row_kernel(dense, _step(dense))

    def compiled_for(self) -> str:
        return "" if library() is None else "all that it executes"

    def _transform(self, taps: Tensor, dense: Dense) -> Tensor:
        """(groups, out, in, parts, frequencies, 2): real and imaginary parts."""
        step = _step(dense)
        filled = F.pad(taps, (0, _parts(dense, step) * step - taps.shape[-1]))
        spectrum = torch.fft.rfft(filled.unflatten(-1, (-1, step)), 2 * step).conj()
        return torch.view_as_real(spectrum.resolve_conj())

    def _dense(self, x: Tensor, weight: Tensor, dense: Dense) -> Tensor:
        step = _step(dense)
        frames, parts = _frames(dense, step), _parts(dense, step)
        low, width = dense.padding[0][0], x.shape[-1]
        x = F.pad(x, (low, (frames + parts) * step - low - width))
        spectra = torch.fft.rfft(x.unfold(-1, 2 * step, step)).unflatten(1, (dense.groups, -1))
        kernel = torch.view_as_complex(weight)
        y: Tensor | int = 0
        for part in range(parts):
            seen = spectra[..., part : part + frames, :]
            y = y + torch.einsum("bgifk,goik->bgofk", seen, kernel[..., part, :])
        outputs: Tensor = torch.fft.irfft(y, 2 * step)[..., :step]
        return outputs.flatten(1, 2).flatten(2)[..., : dense.output_size[0]]

    def _products(self, dense: Dense) -> int:
        """For each frame of the output, part and pair of channels four at each of s + 1 frequencies."""
        step = _step(dense)
        return _count(dense, step, _frames(dense, step))

    def _transforms(self, dense: Dense) -> int:
        """Forth for each frame of the input, back for each of the output."""
        step = _step(dense)
        return _transform_count(dense, step, _frames(dense, step))

    def _weights(self, dense: Dense) -> int:
        step = _step(dense)
        pairs = dense.in_channels * dense.out_channels // dense.groups
        return 2 * pairs * _parts(dense, step) * (step + 1)

    def _buffers(self, dense: Dense) -> int:
        """Frames overlap by half: they and their spectra, and three times those of the outputs while they are
        summed."""
        step = _step(dense)
        frames, parts = _frames(dense, step), _parts(dense, step)
        given = dense.in_channels * (frames + parts) * 5 * (step + 1)
        return dense.batch * (given + 6 * dense.out_channels * frames * (step + 1))

    def stated_error(self, spec: ConvSpec, dtype: torch.dtype) -> float:
        """The error of a sum over parts, channels and phases, and of each pass of the transform."""
        dense = [phase.dense for phase in phases(spec)]
        steps = [_step(one) for one in dense]
        parts = max(_parts(one, step) for one, step in zip(dense, steps, strict=True))
        length = parts * summed_phases(spec) * spec.in_channels // spec.groups
        return sum_error(spec, dtype, factor=1 + log2(2 * max(steps)) / 4, length=length)


def _step(dense: Dense) -> int:
    """The step with the fewest multiplications, the frames rounded up to whole vectors."""

    def multiplications(step: int) -> int:
        frames = -(-_frames(dense, step) // _AT_ONCE) * _AT_ONCE
        return _count(dense, step, frames) + _transform_count(dense, step, frames)

    return min(_STEPS, key=multiplications)


def _frames(dense: Dense, step: int) -> int:
    """The number of frames of the output."""
    return -(-dense.output_size[0] // step)


def _parts(dense: Dense, step: int) -> int:
    return -(-dense.kernel_size[0] // step)


def _count(dense: Dense, step: int, frames: int) -> int:
    pairs = dense.in_channels * dense.out_channels // dense.groups
    return dense.batch * frames * pairs * _parts(dense, step) * 4 * (step + 1)


def _transform_count(dense: Dense, step: int, frames: int) -> int:
    given = dense.in_channels * (frames + _parts(dense, step) - 1)
    one = real_transform_multiplications((2 * step,))
    return dense.batch * (given + dense.out_channels * frames) * one


PATHS = (FFTPartsPath(),)
ORDER = 100
