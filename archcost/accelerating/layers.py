"""The convolutions of one model as `accelerate` sees them: what each computes, on what, what follows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from archcost.accelerating.block import block_of
from archcost.accelerating.program import Step
from archcost.accelerating.programs import programs_of
from archcost.errors import ArchcostError
from archcost.nn.absorbed import Absorbed
from archcost.nn.folding import FusedBlock, folded, fused_blocks
from archcost.nn.like import ConvLike
from archcost.paths.accuracy import exact_convolution
from archcost.paths.epilogue import Epilogue
from archcost.spec import ConvSpec
from archcost.surgery.checking import record_inputs
from archcost.surgery.refusals import hooks_of
from archcost.surgery.sites import sites
from archcost.trace.call import Call
from archcost.trace.graph import Op, Trace

__all__ = ["Clamp", "Kept", "Layer", "Task", "layers_of"]

Clamp = tuple[float, float] | None


@dataclass(frozen=True)
class Task:
    """What is measured once for all layers that do the same."""

    spec: ConvSpec
    """With its batch, and a bias where there is one or one comes of folding."""
    dtype: torch.dtype
    clamp: Clamp


@dataclass(frozen=True, eq=False)
class Layer:
    """One convolution that may be replaced, and what it takes over."""

    name: str
    module: nn.Module
    task: Task
    chain: FusedBlock
    """What is folded into it: nothing, the batch normalisation, the activation module."""
    block: str | None
    """The module around it that does no more than what is folded, and by a function clamps."""
    program: str | None
    """The module around it that is a `Program`."""
    step: Step | None
    """Its own in that program."""
    x: torch.Tensor
    """The input of its first call, cloned."""
    sizes: frozenset[tuple[int, ...]]
    """The spatial sizes of all its inputs."""
    ends: tuple[tuple[int, int], ...]
    """The storages that each call reads and writes."""
    weight: torch.Tensor
    bias: torch.Tensor | None

    @property
    def spec(self) -> ConvSpec:
        return self.task.spec

    def exact(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The first image of its input, and what float64 makes of it."""
        x = self.x[:1]
        y = exact_convolution(x, self.weight, replace(self.spec, batch=1), self.bias)
        return x, y if self.task.clamp is None else y.clamp_(*self.task.clamp)

    def epilogue(self, layout: torch.memory_format | None, keeps_nan: bool) -> Epilogue:
        return Epilogue(self.task.clamp, layout, keeps_nan)


@dataclass(frozen=True)
class Kept:
    """A convolution that stays as it is, and why."""

    name: str
    type_name: str
    reason: str
    spec: ConvSpec | None = None


def layers_of(
    model: nn.Module, inputs: Any, trace: Trace, fold: bool
) -> tuple[list[Layer], list[Kept], dict[str, tuple[Step, ...]]]:
    """All convolutions of the model, in order of definition: those that may be replaced, and the others; and
    the modules that are programs of the former."""
    found = sites(model, trace=trace, keeps_parameters=True, hooks="keep")
    kept = [Kept(one.name, type(one.module).__name__, one.reason) for one in found if one.reason]
    open_ = [one for one in found if not one.reason]
    recorded = record_inputs(model, inputs, [one.name for one in open_])
    calls = _convolutions(trace)
    known = fused_blocks(trace) if fold else {}
    able = [one.name for one in open_ if fold and one.name in calls]
    programs = _programs(model, trace, known, able)
    while True:
        summed = {".".join((name, *step.keys)): step for name, steps in programs.items() for step in steps}
        layers: list[Layer] = []
        others: list[Kept] = []
        taken: set[int] = set()
        for site in open_:
            name, given, ops = site.name, recorded.get(site.name), calls.get(site.name, [])
            made = _layer(model, trace, name, site.module, given, ops, known, summed.get(name))
            if isinstance(made, Layer) and not _is_free(model, made.chain, taken):
                made = _layer(model, trace, name, site.module, given, ops, {}, None)
            if isinstance(made, Layer):
                layers.append(made)
            else:
                others.append(made)
        missing = set(summed) - {layer.name for layer in layers if layer.program} - set(programs)
        if not missing:
            layers = [replace(one, program=_around(one.name, programs)) for one in layers]
            return layers, kept + others, programs
        programs = {one: steps for one, steps in programs.items() if not any(map(_below(one), missing))}


def _programs(
    model: nn.Module, trace: Trace, known: dict[str, FusedBlock], names: list[str]
) -> dict[str, tuple[Step, ...]]:
    """Those in which each convolution may be replaced, with the batch normalisation behind it."""
    able = {
        name: _checked(model, trace, known.get(name, FusedBlock(name, None, None, None))) for name in names
    }
    return programs_of(model, trace, able)


def _around(name: str, programs: Iterable[str]) -> str | None:
    return next((one for one in programs if _below(one)(name)), None)


def _below(name: str) -> Callable[[str], bool]:
    return lambda other: other.startswith(f"{name}.")


def _layer(
    model: nn.Module,
    trace: Trace,
    name: str,
    module: nn.Module,
    given: Call | None,
    ops: list[Op],
    known: dict[str, FusedBlock],
    step: Step | None,
) -> Layer | Kept:
    kind = type(module).__name__
    if given is None or not ops:
        return Kept(name, kind, "it is not called with these inputs")
    like = ConvLike(module)
    x = given.args[0] if len(given.args) == 1 and not given.kwargs else None
    if type(x) is not torch.Tensor:
        return Kept(name, kind, "it is called with more than its input")
    if x.dim() != like.axes + 2:
        return Kept(name, kind, "its input is not a batch")
    if x.device.type != "cpu" or x.dtype != like.weight.dtype or not x.is_floating_point():
        return Kept(name, kind, f"it is in {x.dtype} on {x.device}, and paths are for floats on the CPU")
    chain = _checked(model, trace, known.get(name, FusedBlock(name, None, None, None)))
    if step is not None:  # by a function, or a module that others have as well, for all that the chain knows
        clamp = step.clamp if step.adds is None else None
        chain = replace(chain, clamp=clamp, activation=chain.activation if clamp else None)
    block = block_of(model, trace, chain) if step is None else None
    try:
        spec = like.spec(x.shape[2:], len(x))
        norm = None if chain.batch_norm is None else Absorbed(model.get_submodule(chain.batch_norm))
    except ArchcostError as error:
        return Kept(name, kind, str(error))
    weight, bias = like.weight.detach(), None if like.bias is None else like.bias.detach()
    if norm is not None:
        weight, bias = folded(weight, bias, norm, transposed=like.transposed, groups=like.groups)
    task = Task(replace(spec, bias=bias is not None), x.dtype, chain.clamp)
    sizes = frozenset(tuple(op.args[0].shape[2:]) for op in ops)
    ends = tuple((op.args[0].storage, op.outputs[0].storage) for op in ops)
    program = None if step is None else name
    return Layer(name, module, task, chain, block, program, step, x, sizes, ends, weight, bias)


def _checked(model: nn.Module, trace: Trace, chain: FusedBlock) -> FusedBlock:
    """Less what cannot be taken over: hooks would see other tensors; a clamp that runs anyway is no gain."""
    names = (chain.conv, chain.batch_norm)
    if any(hooks_of(model.get_submodule(name)) for name in names if name is not None):
        return FusedBlock(chain.conv, None, None, None)
    norm = chain.batch_norm
    if norm is not None:
        try:
            Absorbed(model.get_submodule(norm))
        except ArchcostError:
            return FusedBlock(chain.conv, None, None, None)
    if block_of(model, trace, chain) is not None:
        return chain
    if chain.activation is None or hooks_of(model.get_submodule(chain.activation)):
        return FusedBlock(chain.conv, norm, None, None)
    return chain


def _is_free(model: nn.Module, chain: FusedBlock, taken: set[int]) -> bool:
    """Whether no other layer has taken over the same modules; they are taken now."""
    names = (chain.batch_norm, chain.activation)
    wanted = {id(model.get_submodule(name)) for name in names if name is not None}
    free = not wanted & taken
    taken |= wanted
    return free


def _convolutions(trace: Trace) -> dict[str, list[Op]]:
    first = {alias: name for name, info in trace.modules.items() for alias in (name, *info.aliases)}
    made: dict[str, list[Op]] = defaultdict(list)
    for op in trace.ops:
        if op.base == "aten.convolution":
            name = trace.module_of(op)
            made[first.get(name, name)].append(op)
    return made
