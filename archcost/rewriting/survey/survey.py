"""Survey: what of one model can be exchanged, convolution by convolution, and what lies around each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any, TypeVar

from torch import nn

from archcost.analysis.analysis import Analysis
from archcost.cost.costs import Costs
from archcost.errors import ArchcostError, Refusal, SpecError
from archcost.latency.store.store import Store
from archcost.nn.like import ConvLike
from archcost.nn.reading import VARIES, Fixed
from archcost.spec import ConvSpec
from archcost.surgery.elsewhere import used_elsewhere
from archcost.surgery.sites import Hooks, Site, held_elsewhere, sites
from archcost.trace.dataflow import Dataflow
from archcost.trace.graph import Op, TensorRef, Trace
from archcost.trace.modules import ModuleTree, no_convolution, walk
from archcost.weights.moments import Moments

__all__ = ["Subject", "Survey", "survey_of"]


@dataclass(frozen=True, eq=False)
class Subject:
    """One convolution of one model: what it computes, in every call, and whether it may be replaced."""

    name: str
    names: tuple[str, ...]
    """All that it has, where it is shared; the first is ``name``."""
    type_name: str
    specs: tuple[ConvSpec, ...]
    """Of each call, in order, with the batch and the padding of the module itself; none where not called."""
    refusal: Refusal | None
    """Why no rule may replace it, in words that follow its name."""
    ops: tuple[Op, ...] = field(repr=False)
    """The convolution of each call."""
    survey: Survey = field(repr=False)
    """What lies around it."""

    @property
    def spec(self) -> ConvSpec:
        """Of the first call."""
        return self.specs[0]

    @property
    def axes(self) -> int:
        """Of space: 1, 2 or 3."""
        return self.spec.axes

    @property
    def macs(self) -> int:
        """Of all calls of one pass."""
        return sum(spec.macs for spec in self.specs)

    def is_meant_by(self, name: str) -> bool:
        """Whether a name, or a pattern of names such as ``features.*``, is that of this layer."""
        return any(fnmatchcase(one, name) if is_pattern(name) else one == name for one in self.names)


def is_pattern(name: str) -> bool:
    """Whether it stands for several names."""
    return any(sign in name for sign in "*?[")


def subject_at(survey: Survey, site: Site, ops: tuple[Op, ...]) -> Subject:
    """The convolution at a site, which makes these operations."""
    specs: tuple[ConvSpec, ...] = ()
    refusal = _not_read(survey, site, ops)
    if refusal is None:
        try:
            specs = tuple(_spec(survey, site.module, op) for op in ops)
            refusal = _odd(site.module, specs, ops)
        except ArchcostError as error:
            refusal = Refusal(str(error))
    return Subject(site.name, site.names, type(site.module).__name__, specs, refusal, ops, survey)


def _not_read(survey: Survey, site: Site, ops: tuple[Op, ...]) -> Refusal | None:
    """Why there is no telling what it computes."""
    if site.reason is not None:
        return Refusal(site.reason)
    if not ops:
        return Refusal("it is not called with these inputs")
    if not survey.flow.makes_one_a_call(site.name, ops):
        return Refusal("it does not run one convolution a call", "calls")
    return None


def _spec(survey: Survey, module: nn.Module, op: Op) -> ConvSpec:
    """Of one call: from what the module was given, for the operation may see it padded."""
    like = ConvLike(module)
    inputs = survey.trace.calls[op.call].inputs
    given = next((ref for ref in inputs if isinstance(ref, TensorRef)), op.args[0])
    batch = given.shape[0] if len(given.shape) == like.axes + 2 else 1
    return replace(like.spec(given.shape[-like.axes :], batch), bias=like.bias is not None)


def _odd(module: nn.Module, specs: tuple[ConvSpec, ...], ops: tuple[Op, ...]) -> Refusal | None:
    """Why no module of ``torch.nn`` does what it does."""
    like = ConvLike(module)
    rule = like.padding_rule
    if rule is not None:
        pairs = zip(specs, ops, strict=True)
        if any(spec.output_size != op.outputs[0].shape[-like.axes :] for spec, op in pairs):
            return Refusal("it pads otherwise than for inputs of other sizes")
        if not isinstance(rule, Fixed) and any(stride != 1 for stride in like.stride):
            return Refusal(VARIES)
    if any(op.args[0].dtype.is_complex for op in ops):
        return Refusal("its input is complex")
    return None


T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Survey:
    """One pass of one model: its convolutions by name, and whatever a rule may ask of what lies around them.

    ``for subject in survey`` goes through them in order of definition.
    """

    model: nn.Module
    trace: Trace
    costs: Costs
    name: str = "the model"
    """As messages call the model."""
    hooks: Hooks = "refuse"
    """Whether layers with hooks may be replaced: "keep", where the new ones take them over."""
    store: Store | None = None
    """Where measured times are looked up; None: nowhere."""
    moments: dict[str, Moments] = field(default_factory=dict, repr=False)
    """By the name of a layer, of its inputs, where somebody has data: empty to begin with."""
    _found: dict[Any, Any] = field(default_factory=dict, repr=False)

    def __iter__(self) -> Iterator[Subject]:
        return iter(self.subjects.values())

    @cached_property
    def subjects(self) -> dict[str, Subject]:
        """By the first name of each; only those without a `Subject.refusal` can be replaced."""
        made = self.flow.convolutions()
        found = sites(self.model, trace=self.trace, hooks=self.hooks)
        return {site.name: subject_at(self, site, made.get(site.name, ())) for site in found}

    @cached_property
    def neighbours(self) -> dict[str, Subject]:
        """The same for what is merged or moved with another: hooks on it would see something else."""
        return self.subjects if self.hooks == "refuse" else replace(self, hooks="refuse").subjects

    @cached_property
    def flow(self) -> Dataflow:
        """Who makes and who takes each tensor of the pass."""
        return Dataflow(self.trace)

    @cached_property
    def tree(self) -> ModuleTree:
        """Every module, with all its names."""
        return walk(self.model)

    @cached_property
    def readers(self) -> dict[str, tuple[str, ...]]:
        """By the name of a module, the others that read or write a parameter of its own."""
        return used_elsewhere(self.trace)

    @cached_property
    def held(self) -> dict[int, str]:
        """By the id of a module, where the model holds it beside its registration."""
        return held_elsewhere(self.tree)

    @cached_property
    def owners(self) -> dict[int, set[int]]:
        """By the id of a parameter, those of all modules that have it."""
        found: dict[int, set[int]] = {}
        for module in self.tree.modules.values():
            for parameter in module._parameters.values():
                if parameter is not None:
                    found.setdefault(id(parameter), set()).add(id(module))
        return found

    def once(self, find: Callable[..., T], *about: Any) -> T:
        """What ``find(survey, *about)`` gives: looked into once, and kept as long as the survey."""
        key = (find, *about)
        if key not in self._found:
            self._found[key] = find(self, *about)
        found: T = self._found[key]
        return found

    def meant(self, name: str) -> list[Subject]:
        """The convolutions that a name, or a pattern such as ``features.*``, means.

        Raises:
            SpecError: there is none; the message has what is spelt alike.
        """
        found = [one for one in self if one.is_meant_by(name)]
        if not found:
            known = [one for subject in self for one in subject.names]
            raise SpecError(no_convolution(self.name, name, known, self.trace.modules))
        return found


def survey_of(analysis: Analysis, *, hooks: Hooks = "refuse", store: Store | None = None) -> Survey:
    """That of an analysed model.

    Raises:
        ModelError: the model is gone.
    """
    return Survey(analysis.model, analysis.trace, analysis.costs, analysis.name, hooks, store)
