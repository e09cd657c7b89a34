"""Picking and placing by index tensors. A Trace holds no values, so an index may point anywhere."""

from __future__ import annotations

from archcost.fields.intervals.intervals import Intervals, cat, union
from archcost.fields.registry import See, everything, field_rule
from archcost.fields.replay.memory import written
from archcost.trace.graph import Op, TensorRef, refs
from archcost.trace.schema import arguments


@field_rule("aten.embedding")
def embedding(op: Op, see: See) -> Intervals | None:
    weight, indices = see(op.args[0]), see(op.args[1])
    out = op.outputs[0].shape
    rows = weight and weight.reduce([0], op.index)
    return union([rows, indices and indices.unsqueeze(-1)], out)


@field_rule("aten.index_select")
def index_select(op: Op, see: See) -> Intervals | None:
    x = see(op.args[0])
    out = op.outputs[0].shape
    dim = op.args[1]
    index = see(op.args[2])
    parts = [x and x.reduce([dim], op.index)]
    if index is not None:
        parts.append(index.everything(out, op.index))
    return union(parts, out)


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
            if i is None:
                at += 1
            else:
                width = len(i.shape) if str(i.dtype) in ("torch.bool", "torch.uint8") else 1
                indexed.extend(range(at, at + width))
                at += width
        reduced = x.reduce(indexed, op.index, keepdim=False)
        # Adjacent index tensors leave their result in place; others put it first.
        together = indexed == list(range(indexed[0], indexed[-1] + 1)) if indexed else True
        place = indexed[0] if together and indexed else 0
        for _ in range(len(out) - reduced.rank):
            reduced = reduced.unsqueeze(place)
        parts.append(reduced)
    return union(parts, out)


@field_rule(
    *("aten.index_put", "aten._index_put_impl", "aten._unsafe_index_put", "aten.put", "aten.masked_scatter"),
    *("aten.take", "aten.scatter_reduce", "aten.index_reduce", "aten.repeat_interleave.self_Tensor"),
    *("aten.repeat_interleave.Tensor", "aten.isin", "aten.segment_reduce"),
)
def anywhere(op: Op, see: See) -> Intervals | None:
    """Any element may have been put anywhere."""
    return everything(op, see, op.outputs[0].shape)


@field_rule("aten.scatter", "aten.scatter_add")
def scatter(op: Op, see: See) -> Intervals | None:
    """Along the dimension anything may go anywhere; elsewhere elements keep their places."""
    given = arguments(op)
    out = op.outputs[0].shape
    x = see(op.args[0])
    dim = given["dim"] % max(len(out), 1)
    parts: list[Intervals | None] = [x]
    for name in ("src", "index"):
        ref = given.get(name)
        seen = see(ref) if isinstance(ref, TensorRef) else None
        if seen is not None:
            hull = seen.reduce([dim], op.index)
            same = all(hull.shape[d] == n for d, n in enumerate(out) if d != dim)
            parts.append(hull.expand(out) if same else seen.everything(out, op.index))
    return union(parts, out)


@field_rule("aten.index_add", "aten.index_copy", "aten.index_fill")
def index_add(op: Op, see: See) -> Intervals | None:
    given = arguments(op)
    out = op.outputs[0].shape
    dim = given["dim"] % max(len(out), 1)
    source = see(given.get("source"))
    anywhere = [
        x.everything(out, op.index) for x in (see(given["index"]), see(given.get("value"))) if x is not None
    ]
    return union([see(op.args[0]), source and source.reduce([dim], op.index), *anywhere], out)


@field_rule("aten.slice_scatter", "aten.select_scatter", "aten.diagonal_scatter")
def into_slice(op: Op, see: See) -> Intervals | None:
    base, part = op.args[0], op.args[1]
    given = arguments(op)
    dim = given.get("dim", 0) % len(base.shape)
    if "slice" in op.name:
        bounds = slice(given.get("start"), given.get("end"), given.get("step") or 1)
    elif "select" in op.name:
        bounds = slice(given["index"] % base.shape[dim], given["index"] % base.shape[dim] + 1)
    else:
        return everything(op, see, base.shape)
    new = see(part)
    if new is not None and "select" in op.name:
        new = new.unsqueeze(dim)
    box = tuple(bounds if d == dim else slice(None) for d in range(len(base.shape)))
    return written(see(base), base.shape, box, new)


@field_rule("aten.searchsorted", "aten.bucketize")
def search(op: Op, see: See) -> Intervals | None:
    """Each value by itself, among all the bounds of its row."""
    bounds, values = (see(arg) for arg in (op.args[:2] if "sorted" in op.name else op.args[1::-1]))
    return union([values, bounds and bounds.reduce([-1], op.index)], op.outputs[0].shape)


@field_rule("aten.multinomial")
def draw(op: Op, see: See) -> Intervals | None:
    """Each draw by all the weights of its row."""
    x = see(op.args[0])
    return x and x.reduce([-1], op.index).expand(op.outputs[0].shape)


@field_rule("aten.diag_embed")
def diag_embed(op: Op, see: See) -> Intervals | None:
    """Rows as diagonals of two new dimensions; wider by taking all of a row everywhere."""
    x, out, given = see(op.args[0]), op.outputs[0].shape, arguments(op)
    if x is None:
        return None
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
