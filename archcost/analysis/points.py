"""The points of a sweep: input sizes with another side or batch, and a model in another dtype, on paper."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, TypeGuard

from archcost.errors import InputError, ModelError, one_line
from archcost.trace.graph import TensorRef, Trace
from archcost.trace.sites import inherit_sites

if TYPE_CHECKING:
    import torch
    from torch import nn

    from archcost.trace.inputs import DTypes, InputSize

__all__ = ["batch_of", "dtypes_of", "in_dtype", "side_of", "size_of", "with_batch", "with_side"]

_Change = Callable[[tuple[int, ...]], tuple[int, ...]]


def size_of(trace: Trace, what: str) -> InputSize:
    """The input size of a traced call, as `archcost.analyze` takes it.

    Raises:
        InputError: an argument is no tensor, so that shapes alone do not make the call again.
    """
    args, kwargs = trace.inputs
    if kwargs and args:
        raise InputError(f"{what}: the model is called by position and by name; give every size as a dict")
    found = {key: _shapes(value, what) for key, value in kwargs.items()} or [_shapes(a, what) for a in args]
    if isinstance(found, list) and len(found) == 1 and _is_shape(found[0]):
        return found[0]
    return found


def _shapes(value: object, what: str) -> InputSize:
    if isinstance(value, TensorRef):
        return value.shape
    if isinstance(value, (list, tuple)):
        return [_shapes(item, what) for item in value]
    if isinstance(value, Mapping):
        return {key: _shapes(item, what) for key, item in value.items()}
    raise InputError(f"{what}: the model takes {value!r} beside tensors; give each input size in full")


def dtypes_of(trace: Trace) -> DTypes | None:
    """The dtypes of a traced call's inputs, None for floating-point ones; None where all are that."""

    def of(value: object) -> DTypes | None:
        if isinstance(value, TensorRef):
            return None if value.dtype.is_floating_point else value.dtype
        if isinstance(value, (list, tuple)) and value:
            return of(value[0])
        return {key: of(item) for key, item in value.items()} if isinstance(value, Mapping) else None

    args, kwargs = trace.inputs
    found = [of(value) for value in (args or kwargs.values())]
    if not any(found):
        return None
    return found if args else dict(zip(kwargs, found, strict=True))


def _is_shape(size: InputSize) -> TypeGuard[tuple[int, ...]]:
    return isinstance(size, (tuple, list)) and bool(size) and isinstance(size[0], int)


def _first(size: InputSize) -> tuple[int, ...]:
    """The first shape in an input size."""
    while not _is_shape(size):
        if not isinstance(size, (Mapping, Sequence)) or not size:
            raise InputError(f"input_size: {size!r} is not a shape; write it as in (1, 3, 224, 224)")
        size = next(iter(size.values())) if isinstance(size, Mapping) else size[0]
    return tuple(size)


def _mapped(size: InputSize, change: _Change) -> InputSize:
    if _is_shape(size):
        return change(tuple(size))
    if isinstance(size, Mapping):
        return {key: _mapped(one, change) for key, one in size.items()}
    return [_mapped(one, change) for one in size] if isinstance(size, Sequence) else size


def _images(size: InputSize) -> bool:
    """Whether the input is a list of images, each without an axis for the batch, as detectors take it."""
    return isinstance(size, list) and len(size) == 1 and isinstance(size[0], list) and _is_shape(size[0][0])


def batch_of(size: InputSize) -> int:
    """The batch of an input size: the first axis of the first shape, or the number of images in a list."""
    return len(size[0]) if _images(size) else _first(size)[0]  # type: ignore[index, arg-type]


def with_batch(size: InputSize, batch: int) -> InputSize:
    """The input size with another batch, in every shape that begins with the old one."""
    if _images(size):
        return [[size[0][0]] * batch]  # type: ignore[index]
    old = batch_of(size)
    return _mapped(size, lambda shape: (batch, *shape[1:]) if shape[0] == old else shape)


def _axes(size: InputSize) -> int:
    """Axes of the first shape that are no sides: batch and channels, or channels, or the batch of tokens."""
    return 1 if _images(size) or len(_first(size)) == 2 else 2


def side_of(size: InputSize) -> float:
    """The side of an input size: the geometric mean of its spatial axes, or the number of tokens."""
    shape = _first(size)
    spatial = shape[_axes(size) :] or shape[-1:]
    side: float = prod(spatial) ** (1 / len(spatial))
    return round(side) if abs(side - round(side)) < 1e-9 * side else side


def with_side(size: InputSize, side: int) -> InputSize:
    """The input size with another side, in every shape whose spatial axes are those of the first."""
    axes = _axes(size)
    old = _first(size)[axes:]

    def change(shape: tuple[int, ...]) -> tuple[int, ...]:
        return (*shape[:axes], *(side,) * len(old)) if shape[axes:] == old else shape

    return _mapped(size, change)


def in_dtype(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy of the model on `meta` whose floating-point weights have another dtype; no value is copied.

    Raises:
        ModelError: the model cannot be copied.
    """
    import torch

    made: dict[int, object] = {}
    for tensor in (*model.parameters(), *model.buffers()):
        as_asked = tensor.detach().to("meta", dtype if tensor.is_floating_point() else tensor.dtype)
        parameter = isinstance(tensor, torch.nn.Parameter)
        made[id(tensor)] = torch.nn.Parameter(as_asked, tensor.requires_grad) if parameter else as_asked
    try:
        found = copy.deepcopy(model, made)
    except Exception as error:
        raise ModelError(f"the model cannot be copied to be counted in {dtype}: {one_line(error)}") from error
    inherit_sites(found, model)
    return found
