"""A forward pass that failed: the layers that ran, in order, and the one that failed with its inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from archcost.analysis.traced import TracedModel
from archcost.report.columns import words
from archcost.report.document import Column, Table
from archcost.report.grid import Entry
from archcost.report.text import visible
from archcost.report.units import shape_text
from archcost.report.values import Json
from archcost.trace.graph import Failure, TensorRef, Trace

__all__ = ["failure_of", "failure_record", "steps_of"]

# The last steps, and the operations of one, that are shown.
_MOST, _FEW = 16, 3
_STATE = ("parameter", "buffer")


@dataclass(frozen=True, slots=True)
class Step:
    """A call of a layer, or operations in a row that a module runs itself."""

    module: str
    remark: str
    inputs: tuple[TensorRef, ...]
    outputs: tuple[TensorRef, ...]
    failed: bool = False


def failure_of(analysis: TracedModel) -> str:
    """Where and why the pass ended, in a sentence."""
    failed = analysis.trace.failed
    assert failed is not None
    where = f"in {visible(failed.module)}" if failed.module else "in the model's own forward"
    return f"The forward pass failed {where}: {visible(failed.message)}"


def failure_record(analysis: TracedModel) -> Json:
    """The end of a pass that failed, for JSON; None where it did not."""
    failed = analysis.trace.failed
    if failed is None:
        return None
    return {
        "module": failed.module,
        "operation": failed.operation,
        "inputs": [ref.shape for ref in failed.inputs],
        "message": failed.message,
    }


def steps_of(analysis: TracedModel) -> Table[Step]:
    """The table of the last steps, in order of execution; the one that failed is marked."""
    trace = analysis.trace
    assert trace.failed is not None
    steps = [*_steps(trace), _end(trace, trace.failed)]
    columns = [
        words("name", "Layer", "Module that ran", lambda step: step.module, keep=100),
        words("input", "Input", "Shapes of its inputs", lambda step: _shapes(step.inputs), keep=99),
        words("output", "Output", "Shapes of its outputs", _output, keep=98),
    ]

    def entries(shown: Sequence[Column[Step]]) -> list[Entry]:
        before = len(steps) - _MOST
        found = [Entry(((f"({before} steps before)", "dim"),), ("",) * len(shown))] if before > 0 else []
        return found + [_entry(step, shown) for step in steps[-_MOST:]]

    return Table("steps", columns, lambda: steps, lines=entries, is_summary=True)


def _entry(step: Step, shown: Sequence[Column[Step]]) -> Entry:
    label = ((">> " if step.failed else "", "bold red"), (visible(step.module) or "(the model)", ""))
    style = "bold red" if step.failed else ""
    return Entry((*label, (f" ({visible(step.remark)})", "dim")), tuple(c.text(step) for c in shown), style)


def _steps(trace: Trace) -> list[Step]:
    parents = {call.parent for call in trace.calls}
    found = []
    for index, group in groupby(trace.ops, key=lambda op: op.call):
        ops, call = list(group), trace.calls[index]
        if index not in parents and call.outputs:
            found.append(Step(call.module, _type(trace, call.module), call.inputs, call.outputs))
            continue
        names = list(dict.fromkeys(op.label for op in ops))
        said = ", ".join(names[:_FEW]) + ", ..." * (len(names) > _FEW)
        given = tuple(r for r in ops[0].tensors() if trace.storages[r.storage].origin not in _STATE)
        if given:  # a weight that is transposed is no step
            found.append(Step(call.module, said, given, ops[-1].outputs))
    return found


def _end(trace: Trace, failed: Failure) -> Step:
    operation = failed.operation.removeprefix("aten.").partition(".")[0]
    said = ", ".join(filter(None, (_type(trace, failed.module), operation)))
    return Step(failed.module, said, failed.inputs, (), failed=True)


def _type(trace: Trace, name: str) -> str:
    info = trace.modules.get(name)
    return "module" if info is None else info.type_name


def _output(step: Step) -> str:
    return "failed" if step.failed else _shapes(step.outputs)


def _shapes(found: tuple[TensorRef, ...]) -> str:
    return shape_text(tuple(ref.shape for ref in found)) if found else "-"
