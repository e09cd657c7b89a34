"""Gathers and scatters by index tensors, whose values a Trace does not hold: an index may point anywhere."""

from __future__ import annotations

from archcost.fields.intervals.intervals import Intervals, cat, union
from archcost.fields.registry import See, everything, field_rule
from archcost.fields.replay.memory import written
from archcost.fields.rules.tables import of_first
from archcost.trace.graph import Op, refs
from archcost.trace.schema import arguments, named


@field_rule("aten.embedding")
def embedding(op: Op, see: See) -> Intervals | None:
    weight, indices = see(op.args[0]), see(op.args[1])
    rows = weight and weight.reduce([0], op.index)
    return union([rows, indices and indices.unsqueeze(-1)], op.outputs[0].shape)


@field_rule("aten.index_select")
def index_select(op: Op, see: See) -> Intervals | None:
    x, index, out = see(op.args[0]), see(op.args[2]), op.outputs[0].shape
    picked = x and x.reduce(op.args[1], op.index)
    return union([picked, index and index.everything(out, op.index)], out)


@field_rule("aten.gather", "aten.take_along_dim")
def gather(op: Op, see: See) -> Intervals | None:
    """out[i][j] = x[index[i][j]][j]: the hull along the dimension, the element elsewhere."""
    given = arguments(op)
    out = op.outputs[0].shape
    x, index = see(op.args[0]), see(given.get("index", given.get("indices")))
    if x is not None:
        dim = x.dim(given.get("dim") or 0)
        x = x.reduce([dim], op.index)
        for d, n in enumerate(out):
            if d != dim and x.shape[d] != n:
                x = x.slice(d, 0, n)
    return union([x, index], out)


@field_rule("aten.index", "aten._unsafe_index")
def index(op: Op, see: See) -> Intervals | None:
    """Indexed dimensions may come from anywhere; the others keep their places."""
    x, indices = see(op.args[0]), op.args[1]
    out = op.outputs[0].shape
    parts = [seen.everything(out, op.index) for i in refs(indices) if (seen := see(i)) is not None]
    if x is not None:
        indexed: list[int] = []
        at = 0
        for i in indices:
            width = len(i.shape) if i is not None and str(i.dtype) in ("torch.bool", "torch.uint8") else 1
            if i is not None:
                indexed.extend(range(at, at + width))
            at += width
        reduced = x.reduce(indexed, op.index, keepdim=False)
        # Adjacent index tensors leave their result in place; others put it first.
        together = indexed and indexed == list(range(indexed[0], indexed[-1] + 1))
        place = indexed[0] if together else 0
        for _ in range(len(out) - reduced.rank):
            reduced = reduced.unsqueeze(place)
        parts.append(reduced)
    return union(parts, out)


_ANYWHERE = """
    {,_unsafe_}index_put _index_put_impl put take masked_scatter scatter_reduce index_reduce isin
    segment_reduce repeat_interleave.self_Tensor repeat_interleave.Tensor diagonal_scatter
"""


@field_rule(*named(_ANYWHERE))
def anywhere(op: Op, see: See) -> Intervals | None:
    """Any element may have been put anywhere."""
    return everything(op, see, op.outputs[0].shape)


@field_rule("aten.scatter", "aten.scatter_add")
def scatter(op: Op, see: See) -> Intervals | None:
    """Along the dimension anything may go anywhere; elsewhere elements keep their places."""
    given, out = arguments(op), op.outputs[0].shape
    dim = given["dim"] % max(len(out), 1)
    parts = [see(op.args[0])]
    for seen in (see(given.get(name)) for name in ("src", "index")):
        if seen is not None:
            hull = seen.reduce([dim], op.index)
            same = all(hull.shape[d] == n for d, n in enumerate(out) if d != dim)
            parts.append(hull.expand(out) if same else seen.everything(out, op.index))
    return union(parts, out)


@field_rule("aten.index_add", "aten.index_copy", "aten.index_fill")
def index_add(op: Op, see: See) -> Intervals | None:
    given, out = arguments(op), op.outputs[0].shape
    dim = given["dim"] % max(len(out), 1)
    source, *beside = (see(given.get(name)) for name in ("source", "index", "value"))
    anywhere = [x and x.everything(out, op.index) for x in beside]
    return union([see(op.args[0]), source and source.reduce([dim], op.index), *anywhere], out)


@field_rule("aten.slice_scatter", "aten.select_scatter")
def into_slice(op: Op, see: See) -> Intervals | None:
    (base, part), given = op.args[:2], arguments(op)
    dim, new = given.get("dim", 0) % len(base.shape), see(part)
    if "slice" in op.name:
        bounds = slice(given.get("start"), given.get("end"), given.get("step") or 1)
    else:
        index = given["index"] % base.shape[dim]
        bounds, new = slice(index, index + 1), new and new.unsqueeze(dim)
    box = tuple(bounds if d == dim else slice(None) for d in range(len(base.shape)))
    return written(see(base), base.shape, box, new)


@field_rule("aten.searchsorted", "aten.bucketize")
def search(op: Op, see: See) -> Intervals | None:
    """Each value by itself, among all the bounds of its row."""
    bounds, values = (see(arg) for arg in (op.args[:2] if "sorted" in op.name else op.args[1::-1]))
    return union([values, bounds and bounds.reduce([-1], op.index)], op.outputs[0].shape)


@of_first("multinomial")
def draw(x: Intervals, op: Op) -> Intervals:
    """Each draw by all the weights of its row."""
    return x.reduce([-1], op.index).expand(op.outputs[0].shape)


@of_first("diag_embed")
def diag_embed(x: Intervals, op: Op) -> Intervals:
    """Rows as diagonals of two new dimensions; wider by taking all of a row everywhere."""
    out, given = op.outputs[0].shape, arguments(op)
    rows = x.reduce([-1], op.index, keepdim=False)
    for dim in sorted(given.get(name, default) % len(out) for name, default in (("dim1", -2), ("dim2", -1))):
        rows = rows.unsqueeze(dim)
    return rows.expand(out)


@field_rule("aten.block_diag")
def block_diag(op: Op, see: See) -> Intervals | None:
    """Matrices, or vectors and numbers taken as such, each to the right of and below the one before."""
    out = op.outputs[0].shape
    bands: list[tuple[Intervals | None, int]] = []
    left = 0
    for ref in op.args[0]:
        height, width = (1, 1, *ref.shape)[-2:]
        x = see(ref)
        beside = [(None, left), (x and x.reshape((height, width)), width), (None, out[1] - left - width)]
        bands.append((cat(beside, 1, (height, out[1])), height))
        left += width
    return cat(bands, 0, out)
