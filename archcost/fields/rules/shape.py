"""Views and moves: the same elements under another shape."""

from __future__ import annotations

from typing import Any

import numpy as np

from archcost.fields.intervals.intervals import Intervals
from archcost.fields.registry import See, field_rule, first
from archcost.trace.graph import Op
from archcost.trace.schema import arguments

field_rule(
    *("aten.clone", "aten._to_copy", "aten.lift_fresh", "aten.lift", "aten.contiguous", "aten.detach"),
    *("aten.lift_fresh_copy", "aten.dequantize", "aten.quantize_per_tensor", "aten.quantize_per_channel"),
    *("aten.int_repr", "aten.to", "aten.alias", "aten._conj", "aten._neg_view", "aten.resolve_conj"),
    *("aten.view_as_real_copy", "aten.to_mkldnn", "aten.to_dense", "aten.pin_memory", "aten._pin_memory"),
    *("aten.triu", "aten.tril", "aten._copy_from", "aten.real", "aten.imag", "aten.conj"),
    *("aten.native_dropout", "aten._fused_dropout", "aten._assert_tensor_metadata"),
)(first)


@field_rule("aten.quantize_per_tensor_dynamic")
def quantize_dynamic(op: Op, see: See) -> Intervals | None:
    """The scale is that of the whole tensor."""
    x = see(op.args[0])
    return None if x is None else x.mixed(None, op.index)


@field_rule(
    *("aten.view", "aten._unsafe_view", "aten.reshape", "aten._reshape_copy", "aten._reshape_alias"),
    *("aten.view_copy", "aten.flatten", "aten.unflatten", "aten._reshape_alias_copy"),
)
def view(op: Op, see: See) -> Intervals | None:
    x = see(op.args[0])
    return None if x is None else x.reshape(op.outputs[0].shape)


@field_rule("aten.view.dtype")
def view_dtype(op: Op, see: See) -> Intervals | None:
    x, out = see(op.args[0]), op.outputs[0].shape
    return x if x is None or x.shape == out else x.everything(out, op.index)


@field_rule("aten.as_strided")
def as_strided(op: Op, see: See) -> Intervals | None:
    """Where it lies in memory says it all."""
    return see(op.outputs[0])


@field_rule("aten.permute", "aten.permute_copy")
def permute(op: Op, see: See) -> Intervals | None:
    x = see(op.args[0])
    return None if x is None else x.permute(op.args[1])


@field_rule("aten.transpose", "aten.transpose_copy")
def transpose(op: Op, see: See) -> Intervals | None:
    x = see(op.args[0])
    return None if x is None else x.transpose(op.args[1], op.args[2])


@field_rule("aten.t", "aten.numpy_T", "aten.t_copy", "aten.matrix_H", "aten.mT", "aten.adjoint")
def matrix_transpose(op: Op, see: See) -> Intervals | None:
    x = see(op.args[0])
    if x is None or x.rank < 2:
        return x
    return x.transpose(-2, -1)


@field_rule("aten.movedim")
def movedim(op: Op, see: See) -> Intervals | None:
    x = see(op.args[0])
    if x is None:
        return None
    source, target = op.args[1], op.args[2]
    moved = [x.dim(d) for d in ((source,) if isinstance(source, int) else source)]
    places = [x.dim(d) for d in ((target,) if isinstance(target, int) else target)]
    rest = iter(d for d in range(x.rank) if d not in moved)
    at = dict(zip(places, moved, strict=True))
    return x.permute([at[d] if d in at else next(rest) for d in range(x.rank)])


@field_rule("aten.expand", "aten.expand_copy", "aten.broadcast_to", "aten.expand_as")
def expand(op: Op, see: See) -> Intervals | None:
    x = see(op.args[0])
    return None if x is None else x.expand(op.outputs[0].shape)


@field_rule("aten.unsqueeze", "aten.unsqueeze_copy")
def unsqueeze(op: Op, see: See) -> Intervals | None:
    x = see(op.args[0])
    return None if x is None else x.unsqueeze(op.args[1])


@field_rule("aten.squeeze", "aten.squeeze_copy")
def squeeze(op: Op, see: See) -> Intervals | None:
    x = see(op.args[0])
    if x is None:
        return None
    dims: Any = op.args[1] if len(op.args) > 1 else range(x.rank)
    which = {x.dim(d) for d in ((dims,) if isinstance(dims, int) else dims)}
    for d in sorted(which, reverse=True):
        if x.rank and x.shape[d] == 1:
            x = x.squeeze(d)
    return x


@field_rule("aten.slice", "aten.slice_copy", "aten.narrow")
def slice_(op: Op, see: See) -> Intervals | None:
    x = see(op.args[0])
    if x is None:
        return None
    given = arguments(op)
    dim = x.dim(given.get("dim", 0))
    size = x.shape[dim]
    if "narrow" in op.name:
        start, stop, step = given["start"], given["start"] + given["length"], 1
    else:
        start, stop, step = slice(given.get("start"), given.get("end"), given.get("step") or 1).indices(size)
    return x.slice(dim, start, max(stop, start), step)


@field_rule("aten.select", "aten.select_copy")
def select(op: Op, see: See) -> Intervals | None:
    x = see(op.args[0])
    return None if x is None else x.select(op.args[1], op.args[2])


@field_rule("aten.diagonal", "aten.diagonal_copy")
def diagonal(op: Op, see: See) -> Intervals | None:
    x = see(op.args[0])
    if x is None:
        return None
    given = arguments(op)
    one, other = x.dim(given.get("dim1", 0)), x.dim(given.get("dim2", 1))
    return x.reduce([one, other], op.index, keepdim=False).unsqueeze(-1).expand(op.outputs[0].shape)


@field_rule("aten.split", "aten.unsafe_split", "aten.split_copy", "aten.chunk")
def split(op: Op, see: See) -> list[Intervals] | None:
    return _pieces(op, see)


@field_rule(
    *("aten.split_with_sizes", "aten.unsafe_split_with_sizes", "aten.split_with_sizes_copy"),
    *("aten.tensor_split", "aten.unsafe_chunk"),
)
def split_with_sizes(op: Op, see: See) -> list[Intervals] | None:
    return _pieces(op, see)


def _pieces(op: Op, see: See) -> list[Intervals] | None:
    x = see(op.args[0])
    if x is None:
        return None
    dim = x.dim(arguments(op).get("dim", 0))
    out, start = [], 0
    for ref in op.outputs:
        out.append(x.slice(dim, start, start + ref.shape[dim]))
        start += ref.shape[dim]
    return out


@field_rule("aten.unbind", "aten.unbind_copy")
def unbind(op: Op, see: See) -> list[Intervals] | None:
    x = see(op.args[0])
    if x is None:
        return None
    dim = arguments(op).get("dim", 0)
    return [x.select(dim, i) for i in range(len(op.outputs))]


@field_rule("aten.roll")
def roll(op: Op, see: See) -> Intervals | None:
    x = see(op.args[0])
    if x is None:
        return None
    given = arguments(op)
    shifts, dims = given["shifts"], given.get("dims") or ()
    shifts = (shifts,) if isinstance(shifts, int) else tuple(shifts)
    dims = (dims,) if isinstance(dims, int) else tuple(dims)
    if not dims:
        flat = x.reshape((op.outputs[0].numel,))
        return flat.take(0, np.roll(np.arange(flat.shape[0]), shifts[0])).reshape(x.shape)
    for shift, dim in zip(shifts, dims, strict=True):
        x = x.take(dim, np.roll(np.arange(x.shape[dim]), shift))
    return x


@field_rule("aten.flip", "aten.flip_copy")
def flip(op: Op, see: See) -> Intervals | None:
    x = see(op.args[0])
    if x is None:
        return None
    for dim in op.args[1]:
        x = x.take(dim, np.arange(x.shape[dim])[::-1])
    return x


@field_rule("aten.rot90")
def rot90(op: Op, see: See) -> Intervals | None:
    x = see(op.args[0])
    if x is None:
        return None
    given = arguments(op)
    one, other = given.get("dims") or (0, 1)
    for _ in range(given.get("k", 1) % 4):
        x = x.take(other, np.arange(x.shape[x.dim(other)])[::-1]).transpose(one, other)
    return x


@field_rule("aten.repeat")
def repeat(op: Op, see: See) -> Intervals | None:
    x = see(op.args[0])
    if x is None:
        return None
    times = tuple(op.args[1])
    for _ in range(len(times) - x.rank):
        x = x.unsqueeze(0)
    for dim, n in enumerate(times):
        x = x.repeat(dim, n)
    return x


@field_rule("aten.repeat_interleave.self_int")
def repeat_interleave(op: Op, see: See) -> Intervals | None:
    x = see(op.args[0])
    if x is None:
        return None
    given = arguments(op)
    dim = given.get("dim")
    if dim is None:
        x, dim = x.reshape((op.args[0].numel,)), 0
    return x.repeat_each(dim, given["repeats"])


@field_rule("aten.pixel_shuffle")
def pixel_shuffle(op: Op, see: See) -> Intervals | None:
    """(..., C r r, H, W) to (..., C, H r, W r)."""
    x = see(op.args[0])
    if x is None:
        return None
    r = op.args[1]
    *lead, c, h, w = x.shape
    n = len(lead)
    split_up = x.reshape((*lead, c // (r * r), r, r, h, w))
    order = [*range(n), n, n + 3, n + 1, n + 4, n + 2]
    return split_up.permute(order).reshape(op.outputs[0].shape)


@field_rule("aten.pixel_unshuffle")
def pixel_unshuffle(op: Op, see: See) -> Intervals | None:
    """(..., C, H r, W r) to (..., C r r, H, W)."""
    x = see(op.args[0])
    if x is None:
        return None
    r = op.args[1]
    *lead, c, h, w = x.shape
    n = len(lead)
    split_up = x.reshape((*lead, c, h // r, r, w // r, r))
    order = [*range(n), n, n + 2, n + 4, n + 1, n + 3]
    return split_up.permute(order).reshape(op.outputs[0].shape)


@field_rule("aten.channel_shuffle", "aten.native_channel_shuffle")
def channel_shuffle(op: Op, see: See) -> Intervals | None:
    x = see(op.args[0])
    if x is None:
        return None
    groups = op.args[1]
    n, c, *rest = x.shape
    return x.reshape((n, groups, c // groups, *rest)).transpose(1, 2).reshape(x.shape)


@field_rule("aten.view_as_complex", "aten.view_as_complex_copy")
def view_as_complex(op: Op, see: See) -> Intervals | None:
    x = see(op.args[0])
    return None if x is None else x.reduce([-1], op.index, keepdim=False)


@field_rule("aten.view_as_real")
def view_as_real(op: Op, see: See) -> Intervals | None:
    x = see(op.args[0])
    return None if x is None else x.unsqueeze(-1).expand(op.outputs[0].shape)
