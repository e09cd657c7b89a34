"""Subjects: every convolution of an analysed model as a rule looks at it, and what lies around it."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from archcost.errors import ArchcostError
from archcost.nn.like import ConvLike
from archcost.nn.reading import VARIES, Fixed
from archcost.spec import ConvSpec
from archcost.surgery.sites import Hooks, Site, sites
from archcost.trace.graph import Op, TensorRef, Trace

if TYPE_CHECKING:
    from torch import nn

    from archcost.cost.costs import Costs

__all__ = ["Pass", "Subject", "subjects_of"]


@dataclass(frozen=True, eq=False)
class Pass:
    """One pass of one model: its trace, and who uses what."""

    trace: Trace
    costs: Costs
    model: nn.Module
    names: dict[str, str]
    """By every name of a module, its first."""
    users: dict[int, tuple[Op, ...]]
    """By a storage, the operations that take it, in order; not the one that made it."""
    calls: Counter[str]
    """By the first name of a module, how often it was called."""

    def module_of(self, op: Op) -> str:
        """The first name of the module that made an operation."""
        name = self.trace.module_of(op)
        return self.names.get(name, name)


@dataclass(frozen=True, eq=False)
class Subject:
    """One convolution of one model: what it computes, in every call, and whether it may be replaced."""

    name: str
    names: tuple[str, ...]
    """All that it has, where it is shared; the first is ``name``."""
    type_name: str
    specs: tuple[ConvSpec, ...]
    """Of each call, in order, with the batch and the padding of the module itself; none where not called."""
    refusal: str | None
    """Why no rule may replace it, in words that follow its name."""
    ops: tuple[Op, ...] = field(repr=False)
    """The convolution of each call."""
    around: Pass = field(repr=False)

    @property
    def spec(self) -> ConvSpec:
        """Of the first call."""
        return self.specs[0]

    @property
    def axes(self) -> int:
        """Of space: 1, 2 or 3."""
        return len(self.spec.input_size)

    @property
    def macs(self) -> int:
        """Of all calls of one pass."""
        return sum(spec.macs for spec in self.specs)


def subjects_of(
    model: nn.Module, trace: Trace, costs: Costs, *, hooks: Hooks = "refuse"
) -> tuple[Subject, ...]:
    """Every convolution of ``model``, in order of definition."""
    around = _pass(model, trace, costs)
    made: dict[str, list[Op]] = defaultdict(list)
    for op in trace.ops:
        if op.base == "aten.convolution":
            made[around.module_of(op)].append(op)
    found = sites(model, trace=trace, hooks=hooks)
    return tuple(_subject(around, site, tuple(made.get(site.name, ()))) for site in found)


def _subject(around: Pass, site: Site, ops: tuple[Op, ...]) -> Subject:
    def subject(specs: tuple[ConvSpec, ...], refusal: str | None) -> Subject:
        kind = type(site.module).__name__
        return Subject(site.name, site.names, kind, specs, refusal, ops, around)

    if site.reason is not None:
        return subject((), site.reason)
    if not ops:
        return subject((), "it is not called with these inputs")
    if len({op.call for op in ops}) != len(ops) or around.calls[site.name] != len(ops):
        return subject((), "it does not run one convolution a call")
    try:
        specs = tuple(_spec(around, site.module, op) for op in ops)
    except ArchcostError as error:
        return subject((), str(error))
    return subject(specs, _of_padding(site.module, specs, ops) or _of_input(ops))


def _spec(around: Pass, module: nn.Module, op: Op) -> ConvSpec:
    """Of one call: from what the module was given, for the operation may see it padded."""
    like = ConvLike(module)
    given = next(
        (ref for ref in around.trace.calls[op.call].inputs if isinstance(ref, TensorRef)), op.args[0]
    )
    space = given.shape[-like.axes :]
    batch = given.shape[0] if len(given.shape) == like.axes + 2 else 1
    return replace(like.spec(space, batch), bias=like.bias is not None)


def _of_padding(module: nn.Module, specs: tuple[ConvSpec, ...], ops: tuple[Op, ...]) -> str | None:
    like = ConvLike(module)
    rule = like.padding_rule
    if rule is None:
        return None
    if any(
        spec.output_size != op.outputs[0].shape[-like.axes :] for spec, op in zip(specs, ops, strict=True)
    ):
        return "it pads otherwise than for inputs of other sizes"
    return None if isinstance(rule, Fixed) or all(stride == 1 for stride in like.stride) else VARIES


def _of_input(ops: tuple[Op, ...]) -> str | None:
    if any(op.args[0].dtype.is_complex for op in ops):
        return "its input is complex"
    return None


def _pass(model: nn.Module, trace: Trace, costs: Costs) -> Pass:
    names = {alias: name for name, info in trace.modules.items() for alias in (name, *info.aliases)}
    users: dict[int, list[Op]] = defaultdict(list)
    for op in trace.ops:
        for storage in dict.fromkeys(ref.storage for ref in op.tensors()):
            users[storage].append(op)
    calls = Counter(names.get(call.module, call.module) for call in trace.calls)
    return Pass(trace, costs, model, names, {key: tuple(ops) for key, ops in users.items()}, calls)
