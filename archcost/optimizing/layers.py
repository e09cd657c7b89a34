"""The layers of a model that may be exchanged: convolutions and linear layers, in order of execution."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from math import prod

from torch import nn

from archcost.errors import SpecError
from archcost.rewriting.survey.hidden import Hidden, hidden, hidden_of_linear
from archcost.rewriting.survey.survey import Subject, Survey
from archcost.spec import ConvSpec
from archcost.surgery.sites import sites
from archcost.trace.graph import TensorRef

__all__ = ["Layer", "layers_of"]


@dataclass(frozen=True, eq=False)
class Layer:
    """A convolution or a linear layer of one model; a module with several names is one layer."""

    name: str
    names: tuple[str, ...]
    module: nn.Module
    specs: tuple[ConvSpec, ...]
    """The convolution of each call; a linear layer as one of a single tap over its positions."""
    params: int
    macs: int
    """Of all calls."""
    first_op: int
    """Index of its first operation in the trace: layers are in order of execution."""
    subject: Subject | None = None
    """The convolution as rules see it; None for a linear layer."""
    refusal: str | None = None
    """Why it stays; None where it may be replaced."""
    flash: int = 0
    """Bytes of its weights in the dtype of a budget on flash."""
    must_change: bool = False
    """Whether it breaks a budget on SRAM as it is."""
    read_by_parent: bool = False
    """Whether its parent's forward reads its weight, so that it stays a single layer."""
    hidden: Hidden | None = None
    """The channels that it reads, where there may be fewer of them."""

    @property
    def linear(self) -> bool:
        return self.subject is None

    @property
    def spec(self) -> ConvSpec:
        return self.specs[0]


def layers_of(survey: Survey, exclude: Iterable[str] = ()) -> tuple[Layer, ...]:
    """Every convolution and linear layer that runs, in order of execution, with the reason why it stays.

    Args:
        exclude: names or patterns of layers that stay.

    Raises:
        SpecError: nothing has such a name.
    """
    found = [one for one in (*_convolutions(survey), *_linear(survey)) if one.specs]
    asked = [exclude] if isinstance(exclude, str) else list(exclude)
    for pattern in asked:
        if not any(_meant(one.names, pattern) for one in found):
            raise SpecError(f"exclude: no convolution or linear layer of {survey.name} matches {pattern!r}")
    kept = [
        _with_refusal(one, "it is excluded") if any(_meant(one.names, p) for p in asked) else one
        for one in found
    ]
    free = {one.name for one in kept if one.refusal is None}
    linear = {
        one.name: one.spec for one in kept if one.linear and one.refusal is None and len(one.specs) == 1
    }
    every = (*map(hidden, survey), *(hidden_of_linear(survey, name, linear) for name in linear))
    between = (one for one in every if isinstance(one, Hidden))
    read = {one.reader: one for one in between if free.issuperset((*one.makers, one.reader))}
    made = (replace(one, hidden=read.get(one.name)) for one in kept)
    return tuple(sorted(made, key=lambda one: one.first_op))


def _meant(names: Sequence[str], pattern: str) -> bool:
    return any(
        name == pattern or fnmatchcase(name, pattern) or name.startswith(f"{pattern}.") for name in names
    )


def _with_refusal(one: Layer, reason: str) -> Layer:
    return replace(one, refusal=one.refusal or reason)


def _convolutions(survey: Survey) -> list[Layer]:
    made = []
    for subject in survey:
        row = survey.costs.by_name.get(subject.name)
        if not subject.ops or row is None:
            continue
        reason = None if subject.refusal is None else subject.refusal.reason
        module = survey.model.get_submodule(subject.name)
        first = subject.ops[0].index
        made.append(
            Layer(
                subject.name,
                subject.names,
                module,
                subject.specs,
                row.params,
                row.macs,
                first,
                subject,
                reason,
            )
        )
    return made


def _linear(survey: Survey) -> list[Layer]:
    made = []
    for site in sites(survey.model, trace=survey.trace, hooks=survey.hooks, linear=True):
        row = survey.costs.by_name.get(site.name)
        calls = survey.flow.calls(site.name)
        shapes = [next((r.shape for r in call.inputs if isinstance(r, TensorRef)), None) for call in calls]
        if not calls or row is None or not row.macs or not all(shapes):
            continue
        module = site.module
        assert isinstance(module, nn.Linear)
        specs = tuple(
            ConvSpec(
                module.in_features,
                module.out_features,
                1,
                bias=module.bias is not None,
                input_size=(max(1, prod(shape[1:-1])),),
                batch=shape[0] if len(shape) > 1 else 1,
            )
            for shape in shapes
            if shape
        )
        reason = site.reason
        if reason is None and sum(spec.macs for spec in specs) != row.macs:
            reason = "its code does more than one matrix product a call"
        above = survey.model.get_submodule(site.name.rpartition(".")[0])
        made.append(
            Layer(
                site.name,
                site.names,
                module,
                specs,
                row.params,
                row.macs,
                calls[0].first_op,
                refusal=reason,
                # Its fast path in eval mode takes the weights; a trace on `meta` does not go there.
                read_by_parent=isinstance(above, nn.TransformerEncoderLayer),
            )
        )
    return made
