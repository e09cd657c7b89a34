"""Views and moves: the same elements under another shape."""

from __future__ import annotations

from itertools import accumulate

from archcost.fields.intervals.intervals import Intervals
from archcost.fields.registry import See, field_rule, first
from archcost.fields.rules.tables import dim_of, of_first, several, shape_of, table
from archcost.trace.graph import Op
from archcost.trace.schema import arguments, named

_SAME = """
    clone contiguous detach alias lift lift_fresh{,_copy} to _to_copy to_mkldnn to_dense _copy_from pin_memory
    _pin_memory int_repr dequantize quantize_per_tensor quantize_per_channel conj _conj resolve_conj real imag
    _neg_view view_as_real_copy triu tril native_dropout _fused_dropout _assert_tensor_metadata
"""
field_rule(*named(_SAME))(first)


@field_rule("aten.as_strided")
def as_strided(op: Op, see: See) -> Intervals | None:
    """Where it lies in memory says it all."""
    return see(op.outputs[0])


@of_first("movedim")
def movedim(x: Intervals, op: Op) -> Intervals:
    moved, places = ([x.dim(d) for d in several(arg)] for arg in op.args[1:3])
    rest = iter(d for d in range(x.rank) if d not in moved)
    at = dict(zip(places, moved, strict=True))
    return x.permute([at[d] if d in at else next(rest) for d in range(x.rank)])


@of_first("squeeze squeeze_copy")
def squeeze(x: Intervals, op: Op) -> Intervals:
    dims = several(op.args[1]) if len(op.args) > 1 else range(x.rank)
    for d in sorted({x.dim(d) for d in dims}, reverse=True):
        if x.rank and x.shape[d] == 1:
            x = x.squeeze(d)
    return x


@of_first("slice slice_copy")
def slice_(x: Intervals, op: Op) -> Intervals:
    given, dim = arguments(op), x.dim(dim_of(op))
    part = slice(given.get("start"), given.get("end"), given.get("step") or 1)
    start, stop, step = part.indices(x.shape[dim])
    return x.slice(dim, start, max(stop, start), step)


@of_first("narrow")
def narrow(x: Intervals, op: Op) -> Intervals:
    dim, start, length = op.args[1:4]
    return x.slice(dim, start, start + length)


@of_first("diagonal diagonal_copy")
def diagonal(x: Intervals, op: Op) -> Intervals:
    given = arguments(op)
    one, other = given.get("dim1", 0), given.get("dim2", 1)
    return x.reduce([one, other], op.index, keepdim=False).unsqueeze(-1).expand(shape_of(op))


@of_first("split{,_copy} split_with_sizes{,_copy} unsafe_split{,_with_sizes} chunk unsafe_chunk tensor_split")
def split(x: Intervals, op: Op) -> list[Intervals]:
    dim = x.dim(dim_of(op))
    ends = accumulate(ref.shape[dim] for ref in op.outputs)
    return [x.slice(dim, end - ref.shape[dim], end) for ref, end in zip(op.outputs, ends, strict=True)]


@of_first("roll")
def roll(x: Intervals, op: Op) -> Intervals:
    given = arguments(op)
    shifts, dims = several(given["shifts"]), several(given.get("dims") or ())
    if not dims:
        return x.reshape((op.outputs[0].numel,)).roll(0, shifts[0]).reshape(x.shape)
    for shift, dim in zip(shifts, dims, strict=True):
        x = x.roll(dim, shift)
    return x


@of_first("flip flip_copy")
def flip(x: Intervals, op: Op) -> Intervals:
    for dim in op.args[1]:
        x = x.flip(dim)
    return x


@of_first("rot90")
def rot90(x: Intervals, op: Op) -> Intervals:
    given = arguments(op)
    one, other = given.get("dims") or (0, 1)
    for _ in range(given.get("k", 1) % 4):
        x = x.flip(other).transpose(one, other)
    return x


@of_first("repeat")
def repeat(x: Intervals, op: Op) -> Intervals:
    times = tuple(op.args[1])
    for _ in range(len(times) - x.rank):
        x = x.unsqueeze(0)
    for dim, n in enumerate(times):
        x = x.repeat(dim, n)
    return x


@of_first("repeat_interleave.self_int")
def repeat_interleave(x: Intervals, op: Op) -> Intervals:
    given = arguments(op)
    dim = given.get("dim")
    if dim is None:
        x, dim = x.reshape((op.args[0].numel,)), 0
    return x.repeat_each(dim, given["repeats"])


@of_first("pixel_shuffle")
def pixel_shuffle(x: Intervals, op: Op) -> Intervals:
    """(..., C r r, H, W) to (..., C, H r, W r)."""
    r, n = op.args[1], x.rank - 3
    *lead, c, h, w = x.shape
    split_up = x.reshape((*lead, c // (r * r), r, r, h, w))
    return split_up.permute([*range(n), n, n + 3, n + 1, n + 4, n + 2]).reshape(shape_of(op))


@of_first("pixel_unshuffle")
def pixel_unshuffle(x: Intervals, op: Op) -> Intervals:
    """(..., C, H r, W r) to (..., C r r, H, W)."""
    r, n = op.args[1], x.rank - 3
    *lead, c, h, w = x.shape
    split_up = x.reshape((*lead, c, h // r, r, w // r, r))
    return split_up.permute([*range(n), n, n + 2, n + 4, n + 1, n + 3]).reshape(shape_of(op))


@of_first("{,native_}channel_shuffle")
def channel_shuffle(x: Intervals, op: Op) -> Intervals:
    n, c, *rest = x.shape
    return x.reshape((n, op.args[1], c // op.args[1], *rest)).transpose(1, 2).reshape(x.shape)


table(
    {
        """
        view view_copy _unsafe_view reshape _reshape_copy _reshape_alias{,_copy} flatten unflatten
        """: lambda x, op: x.reshape(shape_of(op)),
        "view.dtype": lambda x, op: x if x.shape == shape_of(op) else x.everything(shape_of(op), op.index),
        "permute permute_copy": lambda x, op: x.permute(op.args[1]),
        "transpose transpose_copy": lambda x, op: x.transpose(op.args[1], op.args[2]),
        "t t_copy numpy_T matrix_H mT adjoint": lambda x, op: x if x.rank < 2 else x.transpose(-2, -1),
        "expand expand_copy expand_as broadcast_to": lambda x, op: x.expand(shape_of(op)),
        "unsqueeze unsqueeze_copy": lambda x, op: x.unsqueeze(op.args[1]),
        "select select_copy": lambda x, op: x.select(op.args[1], op.args[2]),
        "unbind unbind_copy": lambda x, op: [x.select(dim_of(op), i) for i in range(len(op.outputs))],
        "view_as_complex view_as_complex_copy": lambda x, op: x.reduce([-1], op.index, keepdim=False),
        "view_as_real": lambda x, op: x.unsqueeze(-1).expand(shape_of(op)),
        # The scale is that of the whole tensor.
        "quantize_per_tensor_dynamic": lambda x, op: x.mixed(None, op.index),
    }
)
