"""Describing: the steps of a program in the field's words, with their times beside those of the modules."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from torch import Tensor

from archcost.engine.acceleration import REST, StepTime
from archcost.engine.activation import IDENTITY, Activation
from archcost.engine.forms import Convert
from archcost.engine.graph import Node
from archcost.engine.lowering.builder import NativeStep
from archcost.engine.operators import Activate, Channels, Convolution, Elementwise, Pool
from archcost.engine.program import Program
from archcost.engine.torch_call import TorchCall
from archcost.latency.timing.deadline import Deadline

__all__ = ["step_seconds", "step_times", "words_for"]

_PASSES = 7

_NAMES = {
    "add": "addition",
    "sub": "subtraction",
    "mul": "multiplication",
    "div": "division",
}


def step_seconds(program: Program, inputs: Sequence[Tensor], deadline: Deadline) -> list[float]:
    """The fewest seconds of each step over some passes, one at least: others were interrupted."""
    taken: list[list[float]] = []
    while not taken or (len(taken) < _PASSES and deadline.allows(sum(taken[-1]))):
        times: list[float] = []
        program(inputs, times)
        taken.append(times)
    return [min(times) for times in zip(*taken, strict=True)]


def step_times(
    program: Program,
    seconds: Sequence[float] | None,
    own_ms: Mapping[str, float] | None,
    original_ms: float | None,
    accelerated_ms: float | None,
) -> tuple[StepTime, ...]:
    """A row for each step, and one for the rest.

    Args:
        program: the program.
        seconds: of each step.
        own_ms: own time of each module in the original, without that of its children.
        original_ms: the whole of the original.
        accelerated_ms: the whole of the accelerated model.
    """
    rows: list[StepTime] = []
    left = dict(own_ms or {})
    for number, step in enumerate(program.steps):
        node = step.node
        # A module whose work several steps do is in the row of the first.
        before = [left.pop(name) for name in dict.fromkeys(node.modules) if name in left]
        ms = None if seconds is None else 1e3 * seconds[number]
        rows.append(
            StepTime(
                modules=tuple(dict.fromkeys(node.modules)),
                operator=words_for(node),
                kernel=_kernel(step) if isinstance(step, NativeStep) else "PyTorch",
                shape=node.output.shape,
                as_is_ms=sum(before) if before else None,
                ms=ms,
                share=100 * ms / accelerated_ms if ms is not None and accelerated_ms else None,
            )
        )
    if not rows or original_ms is None or accelerated_ms is None or seconds is None:
        return tuple(rows)
    outside = accelerated_ms - 1e3 * sum(seconds)
    known = sum(row.as_is_ms or 0.0 for row in rows)
    rest = StepTime(
        modules=(),
        operator=REST,
        kernel="-",
        shape=(),
        as_is_ms=original_ms - known if own_ms is not None else None,
        ms=outside,
        share=100 * outside / accelerated_ms,
    )
    return (*rows, rest)


def _kernel(step: NativeStep) -> str:
    tile = getattr(step.node.operator, "tile", None)
    return step.kernel.replace("_", " ") if tile is None else f"Winograd {tile}"


def words_for(node: Node) -> str:
    """The operator of a node in the field's words."""
    operator = node.operator
    said = _plain(node)
    if getattr(operator, "before", None) is not None:
        said = f"batch normalisation + {said}"
    if getattr(operator, "gated", False):
        said += " + gate"
    if getattr(operator, "adds", False):
        said += " + addition"
    activation = getattr(operator, "activation", IDENTITY)
    if isinstance(activation, Activation) and activation != IDENTITY and not isinstance(operator, Activate):
        said += f" + {activation}"
    return said


def _plain(node: Node) -> str:
    operator = node.operator
    if isinstance(operator, Convolution):
        window = "x".join(map(str, operator.weight.shape[2:]))
        kind = "depthwise " if operator.depthwise else "grouped " if operator.groups > 1 else ""
        strided = f", stride {operator.stride[0]}" * (max(operator.stride) > 1)
        return f"{kind}convolution {window}{strided}"
    if isinstance(operator, Pool):
        return f"{operator.kind} pool {'x'.join(map(str, operator.size))}"
    if isinstance(operator, Elementwise):
        return _NAMES.get(operator.kind, operator.kind)
    if isinstance(operator, Activate):
        return str(operator.activation)
    if isinstance(operator, Channels):
        return "concatenation" if len(node.inputs) > 1 else "channels picked"
    if isinstance(operator, Convert):
        return f"to {operator.to.value} layout"
    if isinstance(operator, TorchCall):
        return operator.name.removesuffix(".default").partition(".")[2]
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(operator).__name__).lower()
