"""The channels between two convolutions that nothing else reads: there may be fewer of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from archcost.errors import Refusal
from archcost.merging.norms import inner_activation, is_norm, norm_problem
from archcost.rewriting.survey.graph import Taker, is_elementwise, results_of, takers
from archcost.rewriting.survey.movable import why_fixed
from archcost.rewriting.survey.pools import POOLS
from archcost.rewriting.survey.survey import Subject, Survey
from archcost.trace.graph import Op

__all__ = ["Hidden", "hidden"]

_SPATIAL = frozenset(
    "max_pool2d max_pool2d_with_indices avg_pool2d adaptive_avg_pool2d constant_pad_nd reflection_pad2d "
    "replication_pad2d".split()
)
"""Operations on each channel alone, where they leave batch and channels as they are."""


@dataclass(frozen=True, eq=False)
class Hidden:
    """The channels that one convolution makes and another one reads."""

    subject: Subject
    """The convolution that makes them."""
    between: tuple[str, ...]
    """Depthwise convolutions and batch normalisations between, in order of execution."""
    reader: str
    """The convolution that reads them."""

    @property
    def makers(self) -> tuple[str, ...]:
        """The convolutions that have these channels as their output, in order of execution."""
        known = self.subject.survey.neighbours
        return (self.subject.name, *(name for name in self.between if name in known))


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
    between: list[str] = []
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
            if then.spec.groups == 1:
                return Hidden(subject, tuple(between), taker.module)
            between.append(taker.module)
            behind_conv = True
        elif module is not None and is_norm(module):
            why = norm_problem(module) or why_fixed(survey, taker.module)
            if len(survey.flow.calls(taker.module)) > 1:
                why = "is called several times"
            if why is None and (not behind_conv or inner_activation(taker.module, module) is not None):
                why = "is not right behind a convolution, or holds an activation function"
            if why is not None:
                return Refusal(f"{taker} {why}")
            between.append(taker.module)
        elif type(module) is not nn.Identity:  # a norm that was folded, as the trace does not know
            if not _each_alone(survey, taker, module):
                return Refusal(f"the next layer is {taker}, which does not treat all channels alike")
            behind_conv = False
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
    if module is not None and any(p.numel() > 1 for p in module.parameters()):
        return False
    if taker.type_name in POOLS or is_elementwise(survey, taker):
        return True
    call = taker.call
    ops = (taker.op,) if call is None else survey.trace.ops[call.first_op : call.end_op]
    return all(op.label in _SPATIAL and _keeps_channels(op) for op in ops)


def _keeps_channels(op: Op) -> bool:
    shapes: Sequence[tuple[int, ...]] = (next(op.tensors()).shape, op.outputs[0].shape)
    return len({(len(shape), shape[:2]) for shape in shapes}) == 1
