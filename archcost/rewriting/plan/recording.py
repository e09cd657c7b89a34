"""Proposals for layers that were chosen by name and options, for a plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt
from typing import Protocol

from archcost.analysis.analysis import Analysis
from archcost.rewriting.proposal import PlaceCosts, Proposal
from archcost.rewriting.replacement import Option, Replacement, named_by
from archcost.rewriting.survey.places import costs_after, costs_before, new_specs, old_specs
from archcost.rewriting.survey.survey import Subject
from archcost.spec import ConvSpec

__all__ = ["proposal_for"]


class Chosen(Protocol):
    """What was chosen for a layer."""

    @property
    def rule(self) -> str: ...
    @property
    def options(self) -> Mapping[str, Option]: ...
    @property
    def macs(self) -> int: ...
    @property
    def params(self) -> int: ...
    @property
    def error(self) -> float: ...


def proposal_for(
    analysis: Analysis,
    subject: Subject | None,
    specs: Sequence[ConvSpec],
    replacement: Replacement,
    chosen: Chosen,
) -> Proposal:
    """The proposal of a replacement.

    Args:
        subject: the convolution; None for a linear layer.
        specs: the convolutions of the calls of all layers that are replaced.
    """
    costs = analysis.costs.by_name
    row = costs[replacement.name]
    types = tuple(costs[name].type_name for name in named_by(replacement))
    if subject is not None:
        old, new = old_specs(subject, replacement), new_specs(subject, replacement)
        before, after = costs_before(subject, replacement), costs_after(subject, replacement)
        shape, dtype = subject.spec.layer, str(subject.ops[0].args[0].dtype).removeprefix("torch.")
    else:
        old, new = tuple(specs), tuple(conv.spec for conv in replacement.convs)
        itemsize = row.param_bytes // row.params if row.params else 4
        rows = [costs[name] for name in replacement.chains]
        params, macs, written = (
            sum(getattr(one, what) for one in rows) for what in ("params", "macs", "activation_bytes")
        )
        before = PlaceCosts(params, macs, written, len(rows), 0, None)
        written = sum(spec.neurons for spec in new) * itemsize
        after = PlaceCosts(chosen.params, chosen.macs, written, len(new), 0, None)
        shape, dtype = f"{specs[0].in_channels} -> {specs[0].out_channels}", "float32"
    return Proposal(
        rule=chosen.rule,
        options=dict(chosen.options),
        type_name=row.type_name,
        shape=shape,
        replacement=replacement,
        old=old,
        new=new,
        before=before,
        after=after,
        output_error=sqrt(max(chosen.error, 0.0)),
        dtype=dtype,
        types=types,
    )
