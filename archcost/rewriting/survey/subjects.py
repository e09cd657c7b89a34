"""Subjects: every convolution of an analysed model as a rule looks at it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from torch import nn

from archcost.errors import ArchcostError, Refusal
from archcost.nn.like import ConvLike
from archcost.nn.reading import VARIES, Fixed
from archcost.spec import ConvSpec
from archcost.surgery.sites import Site
from archcost.trace.graph import Op, TensorRef

if TYPE_CHECKING:
    from archcost.rewriting.survey.survey import Survey

__all__ = ["Subject", "is_pattern", "subject_at"]


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
