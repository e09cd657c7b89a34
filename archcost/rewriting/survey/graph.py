"""The successors of a layer, read from a trace call by call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from archcost.errors import Refusal
from archcost.rewriting.survey.survey import Subject, Survey
from archcost.trace.graph import ModuleCall, Op, TensorRef, refs

__all__ = ["LayerOutput", "Taker", "is_elementwise", "results_of", "takers"]

_ELEMENTWISE = frozenset(
    "relu relu6 hardtanh clamp clamp_min clamp_max silu gelu elu selu celu leaky_relu hardswish hardsigmoid "
    "sigmoid log_sigmoid tanh mish softplus exp neg abs sqrt pow add sub mul div threshold erf clone "
    "detach".split()
)
_ELEMENTWISE_TYPES = ("PReLU", "RReLU")
# Modules with children that count as a single layer.
_WHOLE = ("BatchNormAct2d",)


@dataclass(frozen=True)
class LayerOutput:
    """An output tensor, and the index of the operation after which it is read."""

    ref: TensorRef
    after: int


@dataclass(frozen=True, eq=False)
class Taker:
    """The only successor of an output: a call of a module, or a function called in a module's forward."""

    module: str
    """First name of the module, or of the module whose forward calls the function."""
    type_name: str
    op: Op
    """The first operation of the successor."""
    call: ModuleCall | None
    """The call of the module; None: a function."""
    result: LayerOutput

    @property
    def function(self) -> str | None:
        """Name of the function; None: a module."""
        return self.op.base.removeprefix("aten.") if self.call is None else None

    def __str__(self) -> str:
        if self.call is None:
            return f"{self.function}, a function called in the forward of {self.module or 'the model'}"
        return f"{self.module} ({self.type_name})"


def results_of(subject: Subject) -> list[LayerOutput] | Refusal:
    """The output of each call of a convolution; or why it cannot be followed."""
    found = []
    for op in subject.ops:
        call = subject.survey.trace.calls[op.call]
        outputs = list(refs(call.outputs))
        if len(outputs) != 1 or outputs[0].storage != op.outputs[0].storage:
            return Refusal("its output is not that of its convolution, as where a hook changes it")
        found.append(LayerOutput(outputs[0], call.end_op - 1))
    return found


def takers(survey: Survey, results: Sequence[LayerOutput], *, alone: bool = True) -> list[Taker] | Refusal:
    """The only successor of each output, the same module or function for all; or why there is none.

    Args:
        alone: whether a successor module must be called for these outputs only.
    """
    found: list[Taker] = []
    for result in results:
        one = _taker(survey, result)
        if isinstance(one, Refusal):
            return one
        found.append(one)
    first = found[0]
    kinds = {(one.module, one.op.base, one.call is None) for one in found}
    if len(kinds) > 1:
        return Refusal(f"its calls have different successors: {first} and others")
    if alone and first.call is not None and len(survey.flow.calls(first.module)) != len(found):
        return Refusal(f"{first} is called for other layers too")
    return found


def is_elementwise(survey: Survey, taker: Taker) -> bool:
    """Whether a successor is an element-wise operation, the same for all pixels."""
    if taker.call is None:
        ops: Sequence[Op] = (taker.op,)
    elif taker.type_name in _ELEMENTWISE_TYPES:
        return True
    else:
        ops = survey.trace.ops[taker.call.first_op : taker.call.end_op]
    return all(
        op.base.removeprefix("aten.").removesuffix("_") in _ELEMENTWISE and len(list(op.tensors())) == 1
        for op in ops
    )


def _taker(survey: Survey, result: LayerOutput) -> Taker | Refusal:
    trace, flow, ref = survey.trace, survey.flow, result.ref
    users = flow.takers(ref.storage, result.after)
    returned = ref.storage in flow.returned
    if not users:
        return Refusal("no other layer reads its output" + ": the model returns it" * returned)
    first = users[0]
    call, name = trace.calls[first.call], flow.module_of(first)
    info = trace.modules.get(name)
    outputs = list(refs(call.outputs))
    alone = call.inputs == (ref,) and len(outputs) == 1
    if info is not None and alone and _is_one_step(survey, name, info.type_name):
        end, given = call.end_op - 1, outputs[0]
        taker = Taker(name, info.type_name, first, call, LayerOutput(given, end))
    elif first.args and first.args[0] == ref and first.outputs:
        end, given = first.index, first.outputs[0]
        kind = "" if info is None else info.type_name
        taker = Taker(name, kind, first, None, LayerOutput(given, end))
    else:
        by = f"{first.base.removeprefix('aten.')} in {name or 'the model'}"
        return Refusal(f"its output is not the only input of the next operation, {by}")
    inside = [op for op in users if op.index <= end]
    in_place = given.storage == ref.storage and any(ref.storage in op.writes for op in inside)
    others = [op for op in users if op.index > end]
    if others and not in_place:
        reader = flow.module_of(others[0]) or "the model"
        return Refusal(f"its output is read by {reader} as well as by {taker}")
    if returned and not in_place and given.storage != ref.storage:
        return Refusal(f"the model returns its output as well as passing it to {taker}")
    return taker


def _is_one_step(survey: Survey, name: str, type_name: str) -> bool:
    children = survey.model.get_submodule(name)._modules.values()
    return type_name in _WHOLE or all(child is None for child in children)
