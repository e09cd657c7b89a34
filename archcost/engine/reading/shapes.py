"""Views, concatenation and slices."""

from __future__ import annotations

from typing import TYPE_CHECKING

from archcost.engine.graph import Value
from archcost.engine.operators import Channels, Permute, Reshape, Slice
from archcost.engine.reading.registry import reads

if TYPE_CHECKING:
    from archcost.engine.reading.reader import Arguments, Reader

_SAME = (
    "clone",
    "contiguous",
    "detach",
    "alias",
    "lift_fresh_copy",
    "lift_fresh",
    "dropout",
    "native_dropout",
)


@reads(*(f"aten.{name}" for name in _SAME))
def same(reader: Reader, given: Arguments) -> tuple[Value, ...] | None:
    if given.op.base == "aten.native_dropout" and given["train"] is not False:
        return None
    return (given.first,)


@reads("aten._to_copy", "aten.to")
def cast(reader: Reader, given: Arguments) -> Value | None:
    source, target = next(given.op.tensors()), given.op.outputs[0]
    return given.first if source.dtype == target.dtype else None


_RESHAPES = (
    "view",
    "_unsafe_view",
    "reshape",
    "_reshape_alias",
    "flatten",
    "unsqueeze",
    "squeeze",
    "unflatten",
)


@reads(*(f"aten.{name}" for name in _RESHAPES))
def reshape(reader: Reader, given: Arguments) -> Value | None:
    if given.op.name == "aten.view.dtype":
        return None
    x = given.first
    return x if x.shape == given.shape else reader.add(Reshape(given.shape), x, shape=given.shape)


@reads("aten.expand")
def expand(reader: Reader, given: Arguments) -> Value | None:
    x = given.first
    if x.shape == given.shape:
        return x
    sizes = [size for size in x.shape if size != 1]
    if sizes == [size for size in given.shape if size != 1]:
        return reader.add(Reshape(given.shape), x, shape=given.shape)
    return None


@reads("aten.permute", "aten.t", "aten.transpose")
def permute(reader: Reader, given: Arguments) -> Value:
    x = given.first
    rank = len(x.shape)
    order = list(range(rank))
    if given.op.base == "aten.permute":
        order = [dim % rank for dim in given["dims"]]
    elif given.op.base == "aten.t":
        order.reverse()
    elif rank:
        a, b = given["dim0"] % rank, given["dim1"] % rank
        order[a], order[b] = order[b], order[a]
    return reader.add(Permute(tuple(order)), x, shape=given.shape)


@reads("aten.cat")
def concatenate(reader: Reader, given: Arguments) -> Value | None:
    tensors = [value for value in given["tensors"] if value.shape != (0,)]
    if len(given.shape) != 4 or given["dim"] % 4 != 1 or not given.shape[1]:
        return None
    sources = tuple((i, channel) for i, value in enumerate(tensors) for channel in range(value.shape[1]))
    return reader.add(Channels(sources), *tensors, shape=given.shape)


def _part(reader: Reader, x: Value, dim: int, start: int, stop: int, step: int = 1) -> Value:
    shape = list(x.shape)
    shape[dim] = len(range(start, stop, step))
    if tuple(shape) == x.shape:
        return x
    if dim == 1 and len(x.shape) == 4 and shape[1]:
        sources = tuple((0, channel) for channel in range(start, stop, step))
        return reader.add(Channels(sources), x, shape=shape)
    return reader.add(Slice(dim, start, stop, step), x, shape=shape)


@reads("aten.split", "aten.split_with_sizes", "aten.chunk", "aten.unsafe_chunk", "aten.unsafe_split")
def split(reader: Reader, given: Arguments) -> tuple[Value, ...]:
    x, dim, start, parts = given.first, given["dim"] % len(given.first.shape), 0, []
    for ref in given.op.outputs:
        parts.append(_part(reader, x, dim, start, start + ref.shape[dim]))
        start += ref.shape[dim]
    return tuple(parts)


@reads("aten.unbind")
def unbind(reader: Reader, given: Arguments) -> tuple[Value, ...]:
    x, dim = given.first, given["dim"] % len(given.first.shape)
    return tuple(
        reader.add(Reshape(ref.shape), _part(reader, x, dim, i, i + 1), shape=ref.shape)
        for i, ref in enumerate(given.op.outputs)
    )


@reads("aten.slice")
def slice_(reader: Reader, given: Arguments) -> Value:
    x, dim = given.first, given["dim"] % len(given.first.shape)
    start, stop, step = slice(given["start"], given["end"], given["step"]).indices(x.shape[dim])
    return _part(reader, x, dim, start, stop, step)


@reads("aten.narrow")
def narrow(reader: Reader, given: Arguments) -> Value:
    x, dim = given.first, given["dim"] % len(given.first.shape)
    start = given["start"] % (x.shape[dim] + 1)
    return _part(reader, x, dim, start, start + given["length"])


@reads("aten.select")
def select(reader: Reader, given: Arguments) -> Value:
    x, dim = given.first, given["dim"] % len(given.first.shape)
    index = given["index"] % x.shape[dim]
    part = _part(reader, x, dim, index, index + 1)
    return reader.add(Reshape(given.shape), part, shape=given.shape)


@reads("aten.as_strided")
def as_strided(reader: Reader, given: Arguments) -> Value | None:
    """Other strides for dimensions of one element, as an adaptive pool gives its result in channels_last."""
    source, target = next(given.op.tensors()), given.op.outputs[0]
    several = [dim for dim, size in enumerate(target.shape) if size > 1]
    if source.shape != target.shape or source.offset != target.offset:
        return None
    alike = all(source.stride[dim] == target.stride[dim] for dim in several)
    return given.first if alike else None
