"""The channels between two convolutions, or linear layers, that nothing else reads: there may be fewer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import nn

from archcost.errors import Refusal
from archcost.merging.norms import inner_activation, is_norm, norm_problem
from archcost.rewriting.survey.graph import LayerOutput, Taker, is_elementwise, results_of, takers
from archcost.rewriting.survey.movable import why_fixed
from archcost.rewriting.survey.pools import POOLS
from archcost.rewriting.survey.survey import Subject, Survey
from archcost.spec import ConvSpec
from archcost.surgery.refusals import hooks_of
from archcost.trace.graph import Op, refs

__all__ = ["Hidden", "hidden", "hidden_of_linear"]

_HOOKED = "a hook would see fewer features"
_SPATIAL = frozenset(
    "max_pool2d max_pool2d_with_indices avg_pool2d adaptive_avg_pool2d constant_pad_nd reflection_pad2d "
    "replication_pad2d".split()
)
"""Operations on each channel alone, where they leave batch and channels as they are."""


@dataclass(frozen=True, eq=False)
class Hidden:
    """The channels that one layer makes and another one of its kind reads, in one call each."""

    model: nn.Module
    specs: Mapping[str, ConvSpec]
    """The layers by name, in order of execution: the one that makes them, depthwise convolutions, and the one
    that reads them."""
    norms: Mapping[str, str] = field(default_factory=dict)
    """The convolution right before each batch normalisation between, by the norm's name."""
    linear: bool = False
    """Whether the layers are linear; else they are convolutions."""

    @property
    def makers(self) -> tuple[str, ...]:
        """The layers that have these channels as their output, in order of execution."""
        return tuple(self.specs)[:-1]

    @property
    def reader(self) -> str:
        """The layer that reads them."""
        return tuple(self.specs)[-1]

    @property
    def width(self) -> int:
        """How many they are."""
        return self.specs[self.reader].in_channels


def hidden(subject: Subject) -> Hidden | Refusal:
    """The channels behind a convolution up to the next one that mixes them; or why they cannot be fewer."""
    return subject.survey.once(_hidden, subject.name)


def _hidden(survey: Survey, name: str) -> Hidden | Refusal:
    subject = survey.neighbours[name]
    if subject.refusal is not None:
        return subject.refusal
    width = subject.spec.out_channels
    if subject.spec.groups > 1 or subject.spec.transposed or len(subject.ops) > 1:
        return Refusal("it is grouped, transposed or called several times")
    results = results_of(subject)
    specs, norms = {name: subject.spec}, dict[str, str]()
    behind_conv = True
    while not isinstance(results, Refusal):
        found = takers(survey, results, alone=False)  # a ReLU may serve several layers
        if isinstance(found, Refusal):
            return found
        taker = found[0]
        then = None if taker.call is None else survey.neighbours.get(taker.module)
        module = None if taker.call is None else survey.model.get_submodule(taker.module)
        if then is not None:
            why = _fixed(then, width)
            if why is not None:
                return Refusal(f"{taker.module} {why}")
            specs[taker.module] = then.spec
            if then.spec.groups == 1:
                return Hidden(survey.model, specs, norms)
            behind_conv = True
        elif module is not None and is_norm(module):
            why = norm_problem(module) or why_fixed(survey, taker.module)
            if len(survey.flow.calls(taker.module)) > 1:
                why = "is called several times"
            if why is None and (not behind_conv or inner_activation(taker.module, module) is not None):
                why = "is not right behind a convolution, or holds an activation function"
            if why is not None:
                return Refusal(f"{taker} {why}")
            norms[taker.module] = tuple(specs)[-1]
        elif type(module) is not nn.Identity:  # a norm that was folded, as the trace does not know
            if not _each_alone(survey, taker, module):
                return Refusal(f"the next layer is {taker}, which does not treat all channels alike")
            behind_conv = False
        results = [one.result for one in found]
    return results


def hidden_of_linear(survey: Survey, name: str, specs: Mapping[str, ConvSpec]) -> Hidden | Refusal:
    """The features behind a linear layer, up to the next one, through activation functions alone.

    Args:
        specs: the linear layers that are called once and may be replaced, each as a convolution of one tap.
    """
    if hooks_of(survey.model.get_submodule(name)):
        return Refusal(_HOOKED)
    call = survey.flow.calls(name)[0]
    results: list[LayerOutput] | Refusal = [LayerOutput(ref, call.end_op - 1) for ref in refs(call.outputs)]
    while not isinstance(results, Refusal):
        found = takers(survey, results, alone=False)
        if isinstance(found, Refusal):
            return found
        taker = found[0]
        if taker.call is not None and hooks_of(survey.model.get_submodule(taker.module)):
            return Refusal(_HOOKED)
        if taker.call is not None and taker.module in specs:
            return Hidden(survey.model, {name: specs[name], taker.module: specs[taker.module]}, linear=True)
        module = None if taker.call is None else survey.model.get_submodule(taker.module)
        if not (type(module) is nn.Identity or (_shared(module) and is_elementwise(survey, taker))):
            return Refusal(f"the next layer is {taker}, which does not treat all features alike")
        results = [one.result for one in found]
    return results


def _fixed(then: Subject, width: int) -> str | None:
    """Why a convolution cannot read fewer channels; None where it can."""
    if then.refusal is not None:
        return f"cannot be replaced: {then.refusal}"
    if then.spec.transposed or len(then.ops) > 1:
        return "is transposed, or called several times"
    if then.spec.groups > 1 and not then.spec.groups == then.spec.out_channels == width:
        return "is grouped"
    return None


def _each_alone(survey: Survey, taker: Taker, module: nn.Module | None) -> bool:
    """Whether a successor does the same to each channel, and to each alone."""
    if not _shared(module):
        return False
    if taker.type_name in POOLS or is_elementwise(survey, taker):
        return True
    call = taker.call
    ops = (taker.op,) if call is None else survey.trace.ops[call.first_op : call.end_op]
    return all(op.label in _SPATIAL and _keeps_channels(op) for op in ops)


def _shared(module: nn.Module | None) -> bool:
    """Whether all channels share the parameters of a module, if it has any."""
    return module is None or all(p.numel() == 1 for p in module.parameters())


def _keeps_channels(op: Op) -> bool:
    shapes: Sequence[tuple[int, ...]] = (next(op.tensors()).shape, op.outputs[0].shape)
    return len({(len(shape), shape[:2]) for shape in shapes}) == 1
