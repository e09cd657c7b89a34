"""Costs: the counted costs of a Trace, per operation, per module and in total."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from functools import cached_property, lru_cache
from operator import add, attrgetter

from archcost.cost.complex import as_defined
from archcost.cost.depth import depends_on_input, is_weighted, longest_path, stacked_layers
from archcost.cost.memory import live_bytes, traffic
from archcost.cost.registry import COMPLEX_FLOPS, REAL_FLOPS, Count, table
from archcost.cost.rules.fallback import classify
from archcost.trace.graph import Op, TensorRef, Trace

__all__ = ["Costs", "ModuleCost", "OpCost", "Total", "Uncounted", "cost_of"]


@dataclass(frozen=True, slots=True)
class OpCost:
    """The costs of one operation; bytes are those of its tensors in their own dtypes."""

    op: Op
    module: str
    kind: str
    macs: int | None
    other_ops: int | None
    reason: str | None
    flops: int | None
    """Floating-point operations of the MACs: 2 each, 8 for complex numbers; without ``other_ops``."""
    input_bytes: int
    weight_bytes: int
    output_bytes: int
    activation_bytes: int
    live_bytes: int
    neurons: int


@dataclass(frozen=True, slots=True)
class Uncounted:
    """An operator in a module whose count, or part of it, is unknown: how often it ran, and why."""

    op: str
    module: str
    times: int
    reason: str
    macs_unknown: bool


# The columns that are summed over the operations of a module; and all additive columns.
_OF_OPS = (
    *("macs", "flops", "other_ops", "input_bytes", "weight_bytes", "output_bytes", "activation_bytes"),
    "neurons",
)
_op_columns = attrgetter(*_OF_OPS)
_ADDITIVE = (
    *("params", "trainable_params", "param_bytes", "buffers", "buffer_bytes"),
    *(*_OF_OPS, "kept_for_backward_bytes", "uncounted"),
)


@dataclass(frozen=True, kw_only=True)
class ModuleCost:
    """The costs of one module, its children included.

    Parameters, buffers and neurons are numbers of elements, memory is in bytes. ``level`` is the distance
    from the root. ``output_shape`` is that of the last call, a tuple of shapes where it returned several
    tensors; None where the module was never called itself (a container) or returned no tensor.
    ``peak_memory_bytes`` is the peak of activation memory while it ran. ``uncounted`` is the number of
    operations whose count is unknown: ``macs`` and ``other_ops`` are then lower bounds.
    """

    name: str
    type_name: str
    details: str
    level: int
    is_leaf: bool
    calls: int
    output_shape: tuple[int, ...] | tuple[tuple[int, ...], ...] | None
    shared_with: str | None
    tied: tuple[str, ...]
    params: int
    trainable_params: int
    buffers: int
    param_bytes: int
    buffer_bytes: int
    macs: int
    flops: int
    """Floating-point operations of the MACs: 2 each, 8 for complex numbers; without ``other_ops``."""
    other_ops: int
    input_bytes: int
    weight_bytes: int
    output_bytes: int
    activation_bytes: int
    peak_memory_bytes: int
    kept_for_backward_bytes: int | None
    neurons: int
    uncounted: int

    @property
    def arithmetic_intensity(self) -> float | None:
        """(flops + other_ops) / (input + weight + output bytes); None if any is unknown or no bytes move."""
        if self.uncounted:
            return None
        moved = self.input_bytes + self.weight_bytes + self.output_bytes
        return (self.flops + self.other_ops) / moved if moved else None


@dataclass(frozen=True, kw_only=True)
class Total(ModuleCost):
    """The costs of the whole model.

    ``depth`` is the number of weighted layers on the longest path through the data flow,
    ``nonlinearities`` that of activation functions on the path with most of them.
    """

    depth: int
    nonlinearities: int
    inputs_bytes: int
    """Bytes of the model's inputs, which ``peak_memory_bytes`` does not include."""


@dataclass(frozen=True)
class Costs:
    """The counted costs of one Trace, per operation, per module and in total."""

    ops: tuple[OpCost, ...]
    modules: tuple[ModuleCost, ...]
    total: Total
    uncounted: tuple[Uncounted, ...] = field(default=())
    notes: tuple[str, ...] = field(default=())
    """Notes in words: assumptions of counting rules, and packages whose rules could not be loaded."""

    @cached_property
    def by_name(self) -> dict[str, ModuleCost]:
        """The costs of each module, by its name."""
        return {row.name: row for row in self.modules}


def cost_of(trace: Trace) -> Costs:
    """The costs of a Trace, counted by the registered rules without executing anything."""
    counts = as_defined(trace.ops, [count(op) for op in trace.ops])
    depends = depends_on_input(trace)
    weighted = [is_weighted(op, c, trace, depends) for op, c in zip(trace.ops, counts, strict=True)]
    live = live_bytes(trace)
    ops = tuple(
        _op_cost(op, c, w, trace, live[op.index])
        for op, c, w in zip(trace.ops, counts, weighted, strict=True)
    )
    rows = _module_rows(trace, ops)
    depth, bends = longest_path(trace, counts, weighted, depends)
    root = {f.name: getattr(rows[0], f.name) for f in fields(ModuleCost)}
    total = Total(
        **root,
        depth=depth,
        nonlinearities=bends,
        inputs_bytes=sum(s.nbytes for s in trace.storages if s.origin == "input"),
    )
    notes = dict.fromkeys(c.note for c in counts if c.note is not None)
    return Costs(ops, (total, *rows[1:]), total, _uncounted(ops), (*notes, *table.notes))


def count(op: Op) -> Count:
    """The count of an operation; unknown, with the reason, where no rule applies or its rule raises."""
    rule, kind = table.find(op.name) or (classify, "unknown")
    try:
        result = rule(op)
        if not isinstance(result, Count):
            macs, other_ops = result
            result = Count(macs, other_ops, kind)
    except Exception as error:  # a rule may not support every call of its operator
        return Count(None, None, "unknown", f"its rule failed: {type(error).__name__}: {error}")
    if None in (result.macs, result.other_ops) and result.reason is None:
        result = replace(result, reason="its rule returned None without a reason")
    if result.flops_per_mac is None and result.macs != 0:
        is_complex = any(out.dtype.is_complex for out in op.outputs)
        result = replace(result, flops_per_mac=COMPLEX_FLOPS if is_complex else REAL_FLOPS)
    return result


def _op_cost(op: Op, counted: Count, weighted: bool, trace: Trace, live: int) -> OpCost:
    read, weights, written = traffic(op, trace.storages, counted.kind)
    allocated = sum(trace.storages[s].nbytes for s in op.writes if trace.storages[s].created_by == op.index)
    return OpCost(
        op=op,
        module=trace.module_of(op),
        kind=counted.kind,
        macs=counted.macs,
        other_ops=counted.other_ops,
        reason=counted.reason,
        flops=counted.macs and counted.macs * (counted.flops_per_mac or REAL_FLOPS),
        input_bytes=read,
        weight_bytes=weights,
        output_bytes=written,
        activation_bytes=allocated + op.inner_bytes,
        live_bytes=live,
        neurons=op.outputs[0].numel * stacked_layers(op) if weighted and op.outputs else 0,
    )


def _uncounted(ops: tuple[OpCost, ...]) -> tuple[Uncounted, ...]:
    unknown = (cost for cost in ops if cost.reason is not None)
    found = Counter((cost.op.name, cost.module, cost.reason or "", cost.macs is None) for cost in unknown)
    return tuple(Uncounted(op, module, n, reason, macs) for (op, module, reason, macs), n in found.items())


@lru_cache(maxsize=4096)
def _ancestors(name: str) -> tuple[str, ...]:
    """The names of a module's ancestors, the nearest first and the root's (empty) last."""
    above: list[str] = []
    while name:
        name = name.rpartition(".")[0]
        above.append(name)
    return tuple(above)


def _module_rows(trace: Trace, ops: tuple[OpCost, ...]) -> list[ModuleCost]:
    own = _own_sums(trace, ops)
    names = _in_order(trace, own)
    sums = {name: tuple(own[name].values()) for name in names}
    for name in reversed(names[1:]):  # children before their parents
        parent = name.rpartition(".")[0]
        sums[parent] = tuple(map(add, sums[parent], sums[name]))
    peaks = _peaks(trace, ops, names)
    calls: dict[str, list[int]] = {}
    for call in trace.calls:
        calls.setdefault(call.module, []).append(call.index)
    children = {name.rpartition(".")[0] for name in names if name}
    shared = {alias: info.name for info in trace.modules.values() for alias in info.aliases}
    tied: dict[str, list[str]] = {}
    for state in trace.state:
        if state.aliases and state.kind == "parameter":
            tied.setdefault(state.owner, []).append(f"{state.name} = {' = '.join(state.aliases)}")
    rows = []
    for name in names:
        info = trace.modules.get(shared.get(name, name))
        made = calls.get(name, [])
        columns = dict(zip(_ADDITIVE, sums[name], strict=True))
        kept = columns.pop("kept_for_backward_bytes")
        rows.append(
            ModuleCost(
                name=name,
                type_name=info.type_name if info else name.rpartition("<")[2].rstrip(">"),
                details=info.details if info else "",
                level=name.count(".") + 1 if name else 0,
                is_leaf=name not in children,
                calls=len(made),
                output_shape=_shape(trace.calls[made[-1]].outputs if made else ()),
                shared_with=shared.get(name),
                tied=tuple(tied.get(name, ())),
                peak_memory_bytes=peaks[name],
                kept_for_backward_bytes=None if trace.kept_for_backward is None else kept,
                **columns,
            )
        )
    return rows


def _shape(outputs: tuple[TensorRef, ...]) -> tuple[int, ...] | tuple[tuple[int, ...], ...] | None:
    shapes = tuple(ref.shape for ref in outputs)
    return shapes if len(shapes) > 1 else shapes[0] if shapes else None


def _own_sums(trace: Trace, ops: tuple[OpCost, ...]) -> defaultdict[str, dict[str, int]]:
    """The additive columns of each module, without its children."""
    none = dict.fromkeys(_ADDITIVE, 0)
    own: defaultdict[str, dict[str, int]] = defaultdict(none.copy)
    own.update((call.module, none.copy()) for call in trace.calls)
    for state in trace.state:
        mine, kind = own[state.owner], "param" if state.kind == "parameter" else "buffer"
        mine[f"{kind}s"] += state.numel
        mine[f"{kind}_bytes"] += state.nbytes
        if kind == "param" and state.requires_grad:
            mine["trainable_params"] += state.numel
    made: defaultdict[str, list[OpCost]] = defaultdict(list)
    for cost in ops:
        made[cost.module].append(cost)
    for module, costs in made.items():
        columns = zip(*map(_op_columns, costs), strict=True)
        sums = (sum(filter(None, column)) for column in columns)  # without what is unknown
        own[module].update(zip(_OF_OPS, sums, strict=True))
        own[module]["uncounted"] = sum(cost.reason is not None for cost in costs)
    for module, kept in (trace.kept_for_backward or {}).items():
        own[module]["kept_for_backward_bytes"] += kept
    return own


def _in_order(trace: Trace, own: Iterable[str]) -> list[str]:
    """All module names, parents first, in order of definition; aliases and unregistered modules last."""
    children: defaultdict[str, dict[str, None]] = defaultdict(dict)
    for name in (*trace.modules, *own):
        for lower, upper in zip((name, *_ancestors(name)), _ancestors(name), strict=False):
            if lower in children[upper]:  # then its ancestors are there as well
                break
            children[upper][lower] = None
    order: list[str] = []
    stack = [""]
    while stack:
        name = stack.pop()
        order.append(name)
        stack.extend(reversed(children[name]))
    return order


def _peaks(trace: Trace, ops: tuple[OpCost, ...], names: list[str]) -> dict[str, int]:
    """Peak memory in bytes of each module, its children included."""
    peaks = dict.fromkeys(names, 0)
    for cost in ops:
        peaks[cost.module] = max(peaks[cost.module], cost.live_bytes)
    for name in reversed(names[1:]):
        parent = name.rpartition(".")[0]
        peaks[parent] = max(peaks[parent], peaks[name])
    # A module may be called by a module that is not its ancestor by name: it counts for the caller as well.
    for call in trace.calls:
        caller = None if call.parent is None else trace.calls[call.parent]
        if caller is None or _is_within(call.module, caller.module):
            continue
        peak = max((ops[i].live_bytes for i in range(call.first_op, call.end_op)), default=0)
        while caller is not None:
            peaks[caller.module] = max(peaks[caller.module], peak)
            caller = None if caller.parent is None else trace.calls[caller.parent]
    return peaks


def _is_within(name: str, ancestor: str) -> bool:
    return not ancestor or name.startswith(ancestor + ".")
