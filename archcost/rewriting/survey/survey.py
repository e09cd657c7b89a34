"""Survey: the convolutions of one model, which may be replaced, and their surroundings."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any, Concatenate, ParamSpec, TypeVar

from torch import nn

from archcost.analysis.analysis import Analysis
from archcost.cost.costs import Costs
from archcost.errors import ArchcostError, Refusal, SpecError
from archcost.latency.store.store import Store
from archcost.nn.like import ConvLike
from archcost.nn.reading import VARIES, Fixed
from archcost.spec import ConvSpec
from archcost.surgery.elsewhere import used_elsewhere
from archcost.surgery.sites import ConvSite, Hooks, held_elsewhere, sites
from archcost.trace.dataflow import Dataflow
from archcost.trace.graph import Op, TensorRef, Trace
from archcost.trace.modules import ModuleTree, no_convolution, walk
from archcost.weights.moments import Moments

__all__ = ["Subject", "Survey", "survey_of"]


@dataclass(frozen=True, eq=False)
class Subject:
    """A convolution of one model: its shapes in every call, and whether it may be replaced."""

    name: str
    """First name of the module."""
    names: tuple[str, ...]
    """All names of a shared module; the first is ``name``."""
    type_name: str
    """Class name of the module."""
    specs: tuple[ConvSpec, ...]
    """The convolution of each call, in order, padded as the module pads; empty where it is not called."""
    refusal: Refusal | None
    """Why no rule may replace it, in words that follow its name; None where rules may."""
    ops: tuple[Op, ...] = field(repr=False)
    """The convolution operation of each call."""
    survey: Survey = field(repr=False)
    """The survey of its model, for its surroundings."""

    @property
    def spec(self) -> ConvSpec:
        """The convolution of the first call."""
        return self.specs[0]

    @property
    def axes(self) -> int:
        """Number of spatial axes: 1, 2 or 3."""
        return self.spec.axes

    @property
    def macs(self) -> int:
        """MACs of all calls of a forward pass."""
        return sum(spec.macs for spec in self.specs)

    def is_meant_by(self, name: str) -> bool:
        """Whether a name, or a pattern such as ``features.*``, matches this layer."""
        return any(fnmatchcase(one, name) if is_pattern(name) else one == name for one in self.names)


def is_pattern(name: str) -> bool:
    """Whether a name is a pattern."""
    return any(sign in name for sign in "*?[")


def subject_at(survey: Survey, site: ConvSite, ops: tuple[Op, ...]) -> Subject:
    """The convolution at a site, with its operations in the trace."""
    specs: tuple[ConvSpec, ...] = ()
    refusal = _not_read(survey, site, ops)
    if refusal is None:
        try:
            specs = tuple(_spec(survey, site.module, op) for op in ops)
            refusal = _odd(site.module, specs, ops)
        except ArchcostError as error:
            refusal = Refusal(str(error))
    return Subject(site.name, site.names, type(site.module).__name__, specs, refusal, ops, survey)


def _not_read(survey: Survey, site: ConvSite, ops: tuple[Op, ...]) -> Refusal | None:
    """Why the computation of a convolution is not known; None where it is."""
    if site.reason is not None:
        return Refusal(site.reason)
    if not ops:
        return Refusal("it is not called with these inputs")
    if not survey.flow.makes_one_a_call(site.name, ops):
        return Refusal("a call of it does not run exactly one convolution", "calls")
    return None


def _spec(survey: Survey, module: nn.Module, op: Op) -> ConvSpec:
    """The convolution of a call, from the module's input, as the operation's may be padded."""
    like = ConvLike(module)
    inputs = survey.trace.calls[op.call].inputs
    given = next((ref for ref in inputs if isinstance(ref, TensorRef)), op.args[0])
    batch = given.shape[0] if len(given.shape) == like.axes + 2 else 1
    return replace(like.spec(given.shape[-like.axes :], batch), bias=like.bias is not None)


def _odd(module: nn.Module, specs: tuple[ConvSpec, ...], ops: tuple[Op, ...]) -> Refusal | None:
    """Why no module of ``torch.nn`` computes the same; None where there is one."""
    like = ConvLike(module)
    rule = like.padding_rule
    if rule is not None:
        pairs = zip(specs, ops, strict=True)
        if any(spec.output_size != op.outputs[0].shape[-like.axes :] for spec, op in pairs):
            return Refusal("its padding depends on the size of the input")
        if not isinstance(rule, Fixed) and any(stride != 1 for stride in like.stride):
            return Refusal(VARIES)
    if any(op.args[0].dtype.is_complex for op in ops):
        return Refusal("its input is complex")
    return None


T = TypeVar("T")
P = ParamSpec("P")


@dataclass(frozen=True, eq=False)
class Survey:
    """The convolutions of one model in one traced pass, and their surroundings.

    ``for subject in survey`` goes through the convolutions in order of definition.
    """

    model: nn.Module
    trace: Trace
    costs: Costs
    name: str = "the model"
    """Name of the model in messages."""
    hooks: Hooks = "refuse"
    """Whether layers with hooks may be replaced: "keep" where new layers take them over."""
    store: Store | None = None
    """The store of measured times; None: none."""
    moments: dict[str, Moments] = field(default_factory=dict, repr=False)
    """Moments of the layers' input patches by name; empty without calibration data."""
    _found: dict[Hashable, Any] = field(default_factory=dict, repr=False)

    def __iter__(self) -> Iterator[Subject]:
        return iter(self.subjects.values())

    @cached_property
    def subjects(self) -> dict[str, Subject]:
        """The convolutions by first name; those with a `Subject.refusal` may not be replaced."""
        made = self.flow.convolutions()
        found = sites(self.model, trace=self.trace, hooks=self.hooks)
        return {site.name: subject_at(self, site, made.get(site.name, ())) for site in found}

    @cached_property
    def neighbours(self) -> dict[str, Subject]:
        """The convolutions that may be merged or moved with another: hooks on them are a refusal."""
        return self.subjects if self.hooks == "refuse" else replace(self, hooks="refuse").subjects

    @cached_property
    def flow(self) -> Dataflow:
        """The producers and consumers of each tensor of the pass."""
        return Dataflow(self.trace)

    @cached_property
    def tree(self) -> ModuleTree:
        """Every module with all its names."""
        return walk(self.model)

    @cached_property
    def readers(self) -> dict[str, tuple[str, ...]]:
        """The modules that read or write a parameter of another module, by the owner's name."""
        return used_elsewhere(self.trace)

    @cached_property
    def held(self) -> dict[int, str]:
        """The places that hold a module without being its registration, by the module's id."""
        return held_elsewhere(self.tree)

    @cached_property
    def owners(self) -> dict[int, set[int]]:
        """The ids of all modules with a parameter, by the parameter's id."""
        found: dict[int, set[int]] = {}
        for module in self.tree.modules.values():
            for parameter in module._parameters.values():
                if parameter is not None:
                    found.setdefault(id(parameter), set()).add(id(module))
        return found

    def once(self, find: Callable[Concatenate[Survey, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The result of ``find(survey, *args, **kwargs)``, computed once and kept with the survey."""
        key = (find, args, tuple(kwargs.items()))
        if key not in self._found:
            self._found[key] = find(self, *args, **kwargs)
        found: T = self._found[key]
        return found

    def meant(self, name: str) -> list[Subject]:
        """The convolutions that match a name, or a pattern such as ``features.*``.

        Raises:
            SpecError: there is none; the message has similar names.
        """
        found = [one for one in self if one.is_meant_by(name)]
        if not found:
            known = [one for subject in self for one in subject.names]
            raise SpecError(no_convolution(self.name, name, known, self.trace.modules))
        return found


def survey_of(analysis: Analysis, *, hooks: Hooks = "refuse", store: Store | None = None) -> Survey:
    """The survey of an analysed model.

    Raises:
        ModelError: the model no longer exists.
    """
    return Survey(analysis.model, analysis.trace, analysis.costs, analysis.name, hooks, store)
