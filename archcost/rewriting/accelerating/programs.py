"""Which modules are programs: where by the trace every call is convolutions, sums and clamps, and no more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from archcost.rewriting.accelerating.block import NOTHING
from archcost.rewriting.accelerating.folding import Chain, is_norm, limits_of
from archcost.rewriting.accelerating.program import Step
from archcost.rewriting.surgery.refusals import hooks_of
from archcost.trace.graph import ModuleCall, Op, TensorRef, Trace, refs

__all__ = ["programs_of"]

_ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.Hardtanh, nn.Identity)


def programs_of(model: nn.Module, trace: Trace, chains: Mapping[str, Chain]) -> dict[str, tuple[Step, ...]]:
    """By name of the module, the steps that its every call is; none of them lies in another.

    ``chains`` has the convolutions that may be replaced, each with what it takes over.
    """
    found: dict[str, tuple[Step, ...]] = {}
    dead = _dead(trace)
    for name, info in trace.modules.items():  # a parent comes before its children
        inside = any(name.startswith(f"{other}.") for other in found)
        if not name or inside or info.aliases or not _is_open(model.get_submodule(name), name, chains):
            continue
        calls = [call for call in trace.calls if call.module == name]
        made = {_steps(trace, call, name, chains, dead) for call in calls}
        steps = made.pop() if len(made) == 1 else None
        if steps is not None and _is_worth_it(steps):
            found[name] = steps
    return found


def _is_worth_it(steps: tuple[Step, ...]) -> bool:
    """More than one convolution or a sum, and each convolution once."""
    keys = [step.keys for step in steps if step.keys]
    sums = any(step.adds is not None for step in steps)
    return (len(keys) > 1 or (bool(keys) and sums)) and len(set(keys)) == len(keys)


def _is_open(module: nn.Module, name: str, chains: Mapping[str, Chain]) -> bool:
    """Whether it is nothing but what the trace can tell: no tensors of its own, no hooks, no other layers."""
    if isinstance(module, (nn.Sequential, nn.ModuleList, nn.ModuleDict)) or not module._modules:
        return False
    # What its code does beside, when training, is not in the trace.
    code = getattr(type(module).forward, "__code__", None)
    if code is None or {"training", "is_grad_enabled"} & set(code.co_names):
        return False
    norms = {chain.batch_norm for chain in chains.values()}
    for key, part in module.named_modules(prefix=name, remove_duplicate=False):
        if hooks_of(part) or "forward" in vars(part) or part.training:
            return False
        if key in chains or key in norms or type(part) in _ACTIVATIONS:
            continue
        is_container = part is module or type(part).forward is nn.Sequential.forward
        if not is_container or part._parameters or part._buffers:
            return False
    return True


@dataclass
class _Value:
    """What a step makes."""

    keys: tuple[str, ...]
    reads: int
    adds: int | None = None
    clamp: tuple[float, float] | None = None


def _dead(trace: Trace) -> set[int]:
    """Copies that nobody reads: autograd's, before an operation in place."""
    seen = {ref.storage for op in trace.ops for ref in op.tensors()}
    seen |= {ref.storage for ref in refs(trace.outputs)}
    clones = (op for op in trace.ops if op.base == "aten.clone")
    return {op.index for op in clones if not any(ref.storage in seen for ref in op.outputs)}


def _steps(
    trace: Trace, call: ModuleCall, name: str, chains: Mapping[str, Chain], dead: set[int]
) -> tuple[Step, ...] | None:
    """Of one call; None where it does anything else."""
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
        made = _value(op, first.get(trace.module_of(op), ""), name, chains, read, values)
        if made is None:
            return None
        if made is not values[read[0]]:
            values.append(made)
            shapes.append(op.outputs[0].shape)
            now[op.outputs[0].storage] = len(values) - 1
        else:
            now[op.outputs[0].storage] = read[0]
    last = now.get(call.outputs[0].storage)
    if last is None or last == 0 or call.outputs[0].shape != shapes[last]:
        return None
    return _fused([value for value in values if value is not None], last)


def _read(op: Op, now: Mapping[int, int], shapes: list[tuple[int, ...]]) -> list[int] | None:
    """The values among its inputs that it computes with, of one shape; None where it sees part of one."""
    count = 2 if op.base.removesuffix("_") == "aten.add" else 1
    taken = [arg for arg in op.args[:count] if isinstance(arg, TensorRef)]
    if len(taken) != count or any(ref.storage not in now for ref in taken):
        return None
    found = [now[ref.storage] for ref in taken]
    whole = all(ref.shape == shapes[at] for ref, at in zip(taken, found, strict=True))
    return found if whole and len({shapes[at] for at in found}) == 1 else None


def _value(
    op: Op,
    owner: str,
    name: str,
    chains: Mapping[str, Chain],
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
        return _Value(tuple(below.split(".")), read[0])
    if is_norm(op):
        conv = None if source is None or source.adds is not None else ".".join((name, *source.keys))
        chain = None if conv is None else chains.get(conv)
        if source is None or not source.keys or source.clamp is not None or chain is None:
            return None
        return source if chain.batch_norm == owner else None
    limits = limits_of(op)
    if limits is not None:
        return _Value((), read[0], None, limits)
    if op.base.removesuffix("_") == "aten.add" and op.kwargs.get("alpha", 1) == 1:
        return _Value((), read[0], read[1])
    return None


def _fused(values: list[_Value], last: int) -> tuple[Step, ...] | None:
    """Steps: a sum is done by the later of its two convolutions, a clamp by what it follows, unless somebody
    else needs that as it was."""
    uses = Counter(at for value in values for at in (value.reads, value.adds) if at is not None)
    uses[last] += 1
    steps: dict[int, _Value] = {}
    now = {0: 0}  # by value, the step that makes it
    for number, value in enumerate(values, start=1):
        now[number] = number
        sources = [at for at in (value.reads, value.adds) if at is not None]
        latest = max(sources, key=lambda at: now[at])
        host = steps.get(now[latest])
        alone = host is not None and host.clamp is None and uses[latest] == 1 and not value.keys
        if host is not None and alone and value.adds is None:
            host.clamp = value.clamp
            now[number] = now[latest]
        elif host is not None and alone and host.keys and host.adds is None:
            host.adds = next(now[at] for at in sources if at != latest)
            now[number] = now[latest]
        else:
            adds = None if value.adds is None else now[value.adds]
            steps[number] = _Value(value.keys, now[value.reads], adds, value.clamp)
    return _numbered(steps, now[last])


def _numbered(steps: Mapping[int, _Value], last: int) -> tuple[Step, ...] | None:
    """One behind the other, with what each is the last to read; nothing is computed for nobody."""
    if last != max(steps, default=0):
        return None
    order = {old: new for new, old in enumerate(steps, start=1)} | {0: 0}
    ends: dict[int, int] = {}
    for old, value in steps.items():
        for at in (value.reads, value.adds):
            if at is not None:
                ends[order[at]] = order[old]
    return tuple(
        Step(
            value.keys,
            order[value.reads],
            None if value.adds is None else order[value.adds],
            value.clamp,
            tuple(sorted(at for at, end in ends.items() if end == order[old])),
        )
        for old, value in steps.items()
    )
