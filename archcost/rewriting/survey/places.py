"""The convolutions of a pass in old and new layers, and their costs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from math import prod

from archcost.errors import ArchcostError
from archcost.latency.convolutions import convolutions_of
from archcost.merging.chain import Activation, Chain, Conv, Kept, chain_field, resized
from archcost.rewriting.proposal import PlaceCosts, lies_in
from archcost.rewriting.replacement import Replacement
from archcost.rewriting.survey.survey import Subject, Survey
from archcost.spec import ConvSpec, stacked_field
from archcost.trace.graph import Op, TensorRef

__all__ = ["costs_after", "costs_before", "new_specs", "old_specs"]


def old_specs(subject: Subject, replacement: Replacement) -> tuple[ConvSpec, ...]:
    """Every convolution of a pass in the modules to be replaced, as executed."""
    if set(replacement.chains) == {subject.name}:
        return subject.specs
    names = set(replacement.chains)
    return tuple(spec for name, spec in subject.survey.once(_executed) if lies_in(name, *names))


def _executed(survey: Survey) -> list[tuple[str, ConvSpec]]:
    """Every convolution of a pass, with its module."""
    # A layer says itself how it pads; its operation may see the input padded.
    own = {
        op.index: spec
        for one in survey.neighbours.values()
        if one.specs
        for op, spec in zip(one.ops, one.specs, strict=True)
    }
    ops = (op for op in survey.trace.ops if op.base == "aten.convolution")
    pairs = zip(ops, convolutions_of(survey.trace), strict=True)
    return [
        (survey.flow.module_of(op), own.get(op.index, call.task.spec))
        for op, call in pairs
        if call.task is not None
    ]


def new_specs(subject: Subject, replacement: Replacement) -> tuple[ConvSpec, ...]:
    """Every convolution of a pass in the new layers."""
    chains = _called_chains(subject.survey, replacement)
    return tuple(step.spec for chain in chains for step in chain if isinstance(step, Conv))


def costs_before(subject: Subject, replacement: Replacement) -> PlaceCosts:
    """Costs of the modules to be replaced."""
    survey = subject.survey
    rows = [survey.costs.by_name[name] for name in replacement.chains]
    specs = old_specs(subject, replacement)
    alone = set(replacement.chains) == {subject.name}
    return PlaceCosts(
        params=sum(row.params for row in rows),
        macs=sum(row.macs for row in rows),
        activation_bytes=sum(row.activation_bytes for row in rows),
        depth=_depth(survey, set(replacement.chains)),
        nonlinearities=0,
        receptive_field=_field(specs[:1]) if alone else None,
    )


def costs_after(subject: Subject, replacement: Replacement) -> PlaceCosts:
    """Costs of the new layers; moved poolings cost the same as before."""
    survey = subject.survey
    chains = _called_chains(survey, replacement)
    itemsize = subject.ops[0].args[0].dtype.itemsize
    first = replacement.chain
    try:
        field = chain_field(first)
    except ArchcostError:
        field = None
    calls = max(1, len(survey.flow.calls(replacement.name)))
    return PlaceCosts(
        params=replacement.params,
        macs=sum(spec.macs for spec in new_specs(subject, replacement)),
        activation_bytes=sum(_written(chain) for chain in chains) * itemsize
        + _kept_bytes(survey, replacement),
        depth=sum(isinstance(step, Conv) for chain in chains for step in chain) // calls,
        nonlinearities=sum(isinstance(step, Activation) for chain in chains for step in chain) // calls,
        receptive_field=None if field is None else field.size,
    )


def _called_chains(survey: Survey, replacement: Replacement) -> list[Chain]:
    """The chain of every call of every replaced module, at the input size of the call."""
    found = []
    for name, chain in replacement.chains.items():
        axes = next((step.spec.axes for step in chain if isinstance(step, Conv)), None)
        if axes is None:
            continue
        calls = survey.flow.calls(name)
        shapes = [next(ref.shape for ref in call.inputs if isinstance(ref, TensorRef)) for call in calls]
        for shape in shapes:
            batch = shape[0] if len(shape) == axes + 2 else 1
            # As the first call is the chain as it stands: what comes before may have another size then.
            found.append(chain if shape == shapes[0] else resized(chain, shape[-axes:], batch))
    return found


def _written(chain: Chain) -> int:
    """Number of elements that the steps of a chain write."""
    total = last = 0
    for step in chain:
        if isinstance(step, Activation):
            total += last
        elif step.spec is not None:
            last = step.spec.neurons
            # Where PyTorch pads beforehand, the padded map is written too.
            zeros = step.spec.padding_mode == "zeros"
            if any(low != high or (low and not zeros) for low, high in step.spec.padding):
                total += _padded(step.spec)
            total += last
    return total


def _kept_bytes(survey: Survey, replacement: Replacement) -> int:
    """Activation bytes of modules that move unchanged, poolings apart."""
    steps = (step for chain in replacement.chains.values() for step in chain)
    kept = (step.name for step in steps if isinstance(step, Kept) and step.spec is None)
    return sum(survey.costs.by_name[name].activation_bytes for name in kept)


def _padded(spec: ConvSpec) -> int:
    sizes = (n + low + high for n, (low, high) in zip(spec.input_size, spec.padding, strict=True))
    return spec.batch * spec.in_channels * prod(sizes)


def _depth(survey: Survey, names: set[str]) -> int:
    """Number of convolutions on the longest path through the modules."""
    longest: dict[int, int] = {}
    for op in survey.trace.ops:
        before = max((longest.get(one, 0) for one in op.fed_by), default=0)
        ours = op.base == "aten.convolution" and lies_in(survey.flow.module_of(op), *names)
        longest[op.index] = before + ours
    calls = max(1, max(len(survey.flow.calls(name)) for name in names))
    return max(longest.values(), default=0) if calls == 1 else _shallow(survey, names, calls)


def _shallow(survey: Survey, names: set[str], calls: int) -> int:
    """Convolutions for each call of modules that are called several times."""
    made: Iterable[Op] = (op for op in survey.trace.ops if op.base == "aten.convolution")
    return sum(lies_in(survey.flow.module_of(op), *names) for op in made) // calls


def _field(specs: tuple[ConvSpec, ...]) -> tuple[int, ...] | None:
    try:
        return stacked_field(replace(spec, batch=1) for spec in specs).size
    except ArchcostError:
        return None
