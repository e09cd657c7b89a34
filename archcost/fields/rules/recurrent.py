"""Recurrent layers that run as a single operator: each step depends on those before it, or after it."""

from __future__ import annotations

from archcost.fields.intervals.intervals import Intervals, cat, union
from archcost.fields.registry import See, field_rule
from archcost.trace.graph import Op, refs
from archcost.trace.schema import arguments, named

_STATES = ("hx", "cx", "hx_", "cx_")


@field_rule(
    *named("mkldnn_rnn_layer _cudnn_rnn miopen_rnn {,quantized_}{lstm,gru}.input rnn_{tanh,relu}.input")
)
def layers(op: Op, see: See) -> list[Intervals | None]:
    """The sequence, and final states (layers times ways, batch, width) that have seen all of it.

    Every step sees the first states, and weights that are computed from the input.
    """
    given = arguments(op)
    alone = "mkldnn" in op.name  # one layer and way; the length first, and no layers in the states
    time = 1 if given.get("batch_first") and not alone else 0
    ways = 2 if given.get("bidirectional") and not alone else 1
    count = 1 if alone else given.get("num_layers", 1)
    x = see(given["input"])
    states = list(refs([given.get(name) for name in _STATES]))
    first = [seen.reduce([-1], op.index) for ref in states if (seen := see(ref)) is not None]
    if alone:
        first = [seen.unsqueeze(0) for seen in first]
    rows = x and x.reduce([-1], op.index)
    flat = (*op.outputs[0].shape[:-1], 1)
    last: list[Intervals | None] = []
    for layer in range(count):
        each: list[Intervals | None] = []
        for way in range(ways):
            own = [seen.select(0, layer * ways + way).unsqueeze(time) for seen in first]
            back = way == 1 or bool(given.get("reverse"))
            each.append(union([_passed(rows, time, back, op.index), *own], flat))
            whole = union(
                [rows and rows.reduce([time], op.index), *own], (*flat[:time], 1, *flat[time + 1 :])
            )
            last.append(whole and whole.transpose(0, time))
        rows = union(each, flat)
    width = op.outputs[0].shape[-1]
    batch = flat[1 - time]
    steps = each[0] and each[0].expand(op.outputs[0].shape)
    if ways > 1:
        steps = cat(
            [(one and one.expand((*flat[:-1], width // 2)), width // 2) for one in each],
            -1,
            op.outputs[0].shape,
        )
    final = cat([(one, 1) for one in last], 0, (len(last), batch, 1))
    weights = [ref for ref in op.tensors() if ref not in (given["input"], *states)]
    found: list[Intervals | None] = []
    for i, ref in enumerate(op.outputs):
        if i == 0:
            parts = [steps]
        elif len(ref.shape) == (2 if alone else 3):
            parts = [final and final.squeeze(0) if alone else final]
        else:  # what is kept for the backward pass
            parts = [final and final.everything(ref.shape, op.index)]
        parts += [seen.everything(ref.shape, op.index) for w in weights if (seen := see(w)) is not None]
        found.append(union(parts, ref.shape))
    return found


def _passed(rows: Intervals | None, time: int, back: bool, op: int) -> Intervals | None:
    """Each step and those before it, or after it where the sequence is read from its end."""
    if rows is None or not back:
        return rows and rows.running(time)
    return rows.flip(time).running(time).flip(time).to_the_end(time, op)


@field_rule(*named("{lstm,gru,rnn_tanh,rnn_relu}.data"))
def packed(op: Op, see: See) -> list[Intervals | None]:
    """Sequences of several lengths as rows, all first steps before all second ones.

    Which row belongs to which sequence is a matter of values: each sees every row before it, or all.
    """
    given, data = arguments(op), see(op.args[0])
    rows = data and data.reduce([-1], op.index)
    if rows is not None:
        rows = rows.reduce([0], op.index) if given["bidirectional"] else rows.running(0)
    others = [seen for ref in refs(op.args[1:]) if (seen := see(ref)) is not None]
    found = []
    for i, ref in enumerate(op.outputs):
        known = [*others, *([data] if data is not None and i else [])]
        parts = [seen.everything(ref.shape, op.index) for seen in known]
        found.append(union([rows if i == 0 else None, *parts], ref.shape))
    return found


@field_rule("aten._thnn_fused_lstm_cell", "aten._thnn_fused_gru_cell")
def cell(op: Op, see: See) -> list[Intervals | None]:
    """A recurrent cell: each row of the batch depends on its row of the input and of the state."""
    seen = [x.reduce([-1], op.index) for x in map(see, op.tensors()) if x is not None]
    return [union(seen, ref.shape) for ref in op.outputs]
