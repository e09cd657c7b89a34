"""The steps of one call of a module, from what the trace has of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from archcost.accelerating.block import NOTHING
from archcost.accelerating.pooling import Pool, pool_of
from archcost.accelerating.program import Step
from archcost.nn.folding import FusedBlock, is_norm, limits_of
from archcost.trace.graph import ModuleCall, Op, TensorRef, Trace, refs

__all__ = ["dead_copies", "steps_of"]

_POOLS = ("MaxPool2d", "AvgPool2d")


@dataclass
class _Value:
    """What a step makes."""

    keys: tuple[str, ...]
    reads: tuple[int, ...]
    adds: int | None = None
    clamp: tuple[float, float] | None = None
    pool: Pool | tuple[str, ...] | None = None
    channels: int = 0

    @property
    def sources(self) -> Iterator[int]:
        yield from self.reads
        if self.adds is not None:
            yield self.adds

    @property
    def finishes(self) -> bool:
        """Whether it is only a sum or a clamp of what there is already."""
        return not self.keys and self.pool is None and len(self.reads) == 1


def dead_copies(trace: Trace) -> set[int]:
    """Copies that nobody reads: autograd's, before an operation in place."""
    seen = {ref.storage for op in trace.ops for ref in op.tensors()}
    seen |= {ref.storage for ref in refs(trace.outputs)}
    clones = (op for op in trace.ops if op.base == "aten.clone")
    return {op.index for op in clones if not any(ref.storage in seen for ref in op.outputs)}


def steps_of(
    trace: Trace, call: ModuleCall, name: str, chains: Mapping[str, FusedBlock], dead: set[int]
) -> tuple[Step, ...] | None:
    """Of one call of the module of that name; None where it does anything else."""
    if len(call.inputs) != 1 or len(call.outputs) != 1 or not isinstance(call.inputs[0], TensorRef):
        return None
    ops = [op for op in trace.ops[call.first_op : call.end_op] if op.base not in NOTHING]
    ops = [op for op in ops if op.index not in dead]
    given = call.inputs[0]
    values: list[_Value | None] = [None]
    shapes = [given.shape]
    now = {given.storage: 0}
    first = {alias: one for one, info in trace.modules.items() for alias in (one, *info.aliases)}
    for op in ops:
        read = _read(op, now, shapes)
        if read is None or given.storage in op.writes:
            return None
        owner = first.get(trace.module_of(op), "")
        made = _value(trace, op, owner, name, chains, read, values)
        if made is None:
            return None
        if made is not values[read[0]]:
            made.channels = op.outputs[0].shape[1] if len(op.outputs[0].shape) > 1 else 0
            values.append(made)
            shapes.append(op.outputs[0].shape)
            now[op.outputs[0].storage] = len(values) - 1
        else:
            now[op.outputs[0].storage] = read[0]
    last = now.get(call.outputs[0].storage)
    if last is None or last == 0 or call.outputs[0].shape != shapes[last]:
        return None
    return _fused([value for value in values if value is not None], last, given.shape[1:2])


def _read(op: Op, now: Mapping[int, int], shapes: list[tuple[int, ...]]) -> list[int] | None:
    """The values among its inputs that it computes with, of one shape unless it concatenates them; None
    where it sees part of one."""
    joins = op.base == "aten.cat"
    count = 2 if op.base.removesuffix("_") == "aten.add" else 1
    given = list(op.args[0]) if joins and op.args else list(op.args[:count])
    taken = [arg for arg in given if isinstance(arg, TensorRef)]
    if len(taken) != len(given) or len(taken) < count or any(ref.storage not in now for ref in taken):
        return None
    found = [now[ref.storage] for ref in taken]
    whole = all(ref.shape == shapes[at] for ref, at in zip(taken, found, strict=True))
    return found if whole and (joins or len({shapes[at] for at in found}) == 1) else None


def _value(
    trace: Trace,
    op: Op,
    owner: str,
    name: str,
    chains: Mapping[str, FusedBlock],
    read: list[int],
    values: list[_Value | None],
) -> _Value | None:
    """What the operation makes of these values; the very value where its convolution does it already."""
    source = values[read[0]]
    below = owner.removeprefix(f"{name}.")
    if op.base == "aten.convolution":
        chain = chains.get(owner)
        if chain is None or below == owner or not (chain.batch_norm or owner).startswith(f"{name}."):
            return None
        return _Value(tuple(below.split(".")), (read[0],))
    if is_norm(op):
        conv = None if source is None or source.adds is not None else ".".join((name, *source.keys))
        chain = None if conv is None else chains.get(conv)
        if source is None or not source.keys or source.clamp is not None or chain is None:
            return None
        return source if chain.batch_norm == owner else None
    limits = limits_of(op)
    if limits is not None:
        return _Value((), (read[0],), None, limits)
    if op.base.removesuffix("_") == "aten.add" and op.kwargs.get("alpha", 1) == 1:
        return _Value((), (read[0],), read[1])
    pool = pool_of(op)
    if pool is not None:
        return _pooling(trace, pool, owner, name, read[0])
    return _Value((), tuple(read)) if _joins_channels(op) else None


def _pooling(trace: Trace, pool: Pool, owner: str, name: str, read: int) -> _Value | None:
    """By a module below this one, or by its code."""
    if owner not in trace.modules or trace.modules[owner].type_name not in _POOLS:
        return _Value((), (read,), pool=pool)
    below = owner.removeprefix(f"{name}.")
    return None if below == owner else _Value((), (read,), pool=tuple(below.split(".")))


def _joins_channels(op: Op) -> bool:
    """Whether it concatenates several images along their channels."""
    if op.base != "aten.cat" or len(op.args[0]) < 2:
        return False
    along = op.args[1] if len(op.args) > 1 else op.kwargs.get("dim", 0)
    return along in (1, -3) and all(len(ref.shape) == 4 for ref in op.args[0])


def _fused(values: list[_Value], last: int, given: tuple[int, ...]) -> tuple[Step, ...] | None:
    """Steps: a sum is done by the later of its two convolutions, a clamp by what it follows, unless somebody
    else needs that as it was; a concatenation takes in those that only it reads."""
    uses = Counter(at for value in values for at in value.sources)
    uses[last] += 1
    steps: dict[int, _Value] = {}
    now = {0: 0}  # by value, the step that makes it
    for number, value in enumerate(values, start=1):
        now[number] = number
        latest = max(value.sources, key=lambda at: now[at])
        host = steps.get(now[latest])
        alone = host is not None and host.clamp is None and uses[latest] == 1 and value.finishes
        if host is not None and alone and value.adds is None:
            host.clamp = value.clamp
            now[number] = now[latest]
        elif host is not None and alone and host.keys and host.adds is None:
            host.adds = next(now[at] for at in value.sources if at != latest)
            now[number] = now[latest]
        else:
            reads = tuple(one for at in value.reads for one in _taken_in(at, value, now, uses, steps))
            adds = None if value.adds is None else now[value.adds]
            steps[number] = replace(value, reads=reads, adds=adds)
    return _numbered(steps, now[last], given)


def _taken_in(
    at: int, value: _Value, now: Mapping[int, int], uses: Mapping[int, int], steps: dict[int, _Value]
) -> tuple[int, ...]:
    """The step that makes a value, or those that a concatenation before a concatenation reads."""
    made = steps.get(now[at])
    if made is None or min(len(made.reads), len(value.reads)) < 2 or uses[at] > 1 or made.clamp is not None:
        return (now[at],)
    del steps[now[at]]
    return made.reads


def _numbered(steps: Mapping[int, _Value], last: int, given: tuple[int, ...]) -> tuple[Step, ...] | None:
    """One behind the other, with what each is the last to read; nothing is computed for nobody."""
    if last != max(steps, default=0):
        return None
    order = {old: new for new, old in enumerate(steps, start=1)} | {0: 0}
    ends: dict[int, int] = {}
    for old, value in steps.items():
        for at in value.sources:
            ends[order[at]] = order[old]
    channels = {0: sum(given), **{number: value.channels for number, value in steps.items()}}
    places = _places(steps, channels)
    return tuple(
        Step(
            value.keys,
            tuple(order[at] for at in value.reads),
            None if value.adds is None else order[value.adds],
            value.clamp,
            tuple(sorted(at for at, end in ends.items() if end == order[old])),
            value.pool,
            tuple(channels[at] for at in value.reads) if len(value.reads) > 1 else (),
            (order[places[old][0]], places[old][1]) if old in places else None,
        )
        for old, value in steps.items()
    )


def _places(steps: Mapping[int, _Value], channels: Mapping[int, int]) -> dict[int, tuple[int, int]]:
    """Of convolutions that only a concatenation reads, the concatenation and the first of its channels."""
    uses = Counter(at for value in steps.values() for at in value.sources)
    found: dict[int, tuple[int, int]] = {}
    for end, value in steps.items():
        first = 0
        for at in value.reads if len(value.reads) > 1 else ():
            if at and uses[at] == 1 and steps[at].keys and steps[at].adds is None:
                found[at] = (end, first)
            first += channels[at]
    return found
