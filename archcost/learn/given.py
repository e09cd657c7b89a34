"""The input and the kernel of an algorithm that is shown step by step, read from any tensors or lists."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from archcost.errors import InputError
from archcost.learn.stages import Panel, planes
from archcost.report.units import shape_text
from archcost.spec import ConvSpec

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
    from torch import Tensor

__all__ = ["Given", "given"]

_MOST = 4096  # entries of the im2col matrix: more cannot be read
_RANKS = {1: "(taps,)", 2: "(rows, columns)", 3: "(channels, rows, columns)"}

Array = NDArray[np.float64]


class Given(NamedTuple):
    """A convolution and its numbers; a sequence is an image of one row."""

    x: Array
    """(batch, channels, rows, columns), with its padding written out."""
    w: Array
    """(outputs, channels, rows, columns)."""
    spec: ConvSpec
    """Of the convolution on the padded input."""
    rank: int
    """The axes of x as it was given."""

    @property
    def text(self) -> str:
        """Shapes and geometry in words."""
        said = [f"x {shape_text(self.x.shape)}, w {shape_text(self.w.shape)}"]
        said += [f"stride {max(self.spec.stride)}"] * (max(self.spec.stride) > 1)
        said += [f"dilation {max(self.spec.dilation)}"] * (max(self.spec.dilation) > 1)
        return ", ".join(said)

    @property
    def panels(self) -> tuple[Panel, ...]:
        """The numbers of x and w."""
        return (*planes("x", self.x, "image", "channel"), *planes("w", self.w, "filter", "channel"))

    @property
    def grown(self) -> Array:
        """The kernel with the zeros of its dilation written out."""
        (rows, columns), (down, across) = self.spec.extent, self.spec.dilation
        grown = np.zeros((*self.w.shape[:2], rows, columns))
        grown[..., ::down, ::across] = self.w
        return grown

    def output(self, y: Array) -> Tensor:
        """The output as a tensor with as many axes as x was given with."""
        import torch

        whole = torch.from_numpy(np.ascontiguousarray(y))
        return whole[(0,) * (4 - self.rank)] if self.rank < 3 else whole[0] if self.rank == 3 else whole


def given(
    what: str, x: ArrayLike | Tensor, w: ArrayLike | Tensor, stride: int, padding: int, dilation: int = 1
) -> Given:
    """Read x and w as numbers of float64.

    Raises:
        InputError: shapes that are not those of a convolution, or arrays too large to be read.
    """
    image, kernel = _numbers(what, "x", x), _numbers(what, "w", w)
    rank = image.ndim
    fits = {1: (1,), 2: (2,), 3: (3, 4), 4: (3, 4)}.get(rank, ())
    if kernel.ndim not in fits:
        raise InputError(
            f"learn.{what}: x has shape {image.shape} and w {kernel.shape}; give w as "
            f"{_RANKS.get(rank, '(filters, channels, rows, columns)')} for an x of {rank or 'no'} axes"
        )
    single = rank == 1
    image, kernel = _of_four_axes(image), _of_four_axes(kernel)
    for name, value, least in (("stride", stride, 1), ("padding", padding, 0), ("dilation", dilation, 1)):
        if not isinstance(value, int) or value < least:
            raise InputError(f"learn.{what}: {name} is {value!r}; give a whole number, at least {least}")
    if image.shape[1] != kernel.shape[1]:
        raise InputError(f"learn.{what}: x has {image.shape[1]} channels and w {kernel.shape[1]}")
    down = 0 if single else padding
    image = np.pad(image, ((0, 0), (0, 0), (down, down), (padding, padding)))
    rows, columns = image.shape[2:]
    tall, wide = kernel.shape[2:]
    if (tall - 1) * dilation >= rows or (wide - 1) * dilation >= columns:
        raise InputError(f"learn.{what}: w reaches over more than the {shape_text((rows, columns))} of x")
    steps = [(1, one) if single else (one, one) for one in (stride, dilation)]
    spec = ConvSpec(
        kernel.shape[1],
        kernel.shape[0],
        (tall, wide),
        stride=steps[0],
        dilation=steps[1],
        bias=False,
        input_size=(rows, columns),
        batch=image.shape[0],
    )
    entries = spec.macs // len(kernel)
    if max(entries, image.size, kernel.size) > _MOST:
        raise InputError(
            f"learn.{what}: {entries} products a filter are too many to read, {_MOST} are the most; give a "
            f"smaller x, or call archcost.convolve"
        )
    return Given(image, kernel, spec, rank)


def _of_four_axes(values: Array) -> Array:
    found: Array = values[(None,) * (4 - values.ndim)]
    return found


def _numbers(what: str, name: str, values: ArrayLike | Tensor) -> Array:
    try:
        found = np.asarray(getattr(values, "detach", lambda: values)(), dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"learn.{what}: {name} is no array of real numbers: {error}") from error
    if not found.size or not np.isfinite(found).all():
        raise InputError(f"learn.{what}: {name} is empty, or not all of it is finite")
    return found
