"""Training: the cost of one training step, its MACs by operator, and what its memory is made of."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from archcost.analysis.workspace import kept_for_backward, workspace_of
from archcost.cost.costs import count
from archcost.report.columns import number, words
from archcost.report.document import Asked, Column, Document, Table, ordered
from archcost.report.result import Result
from archcost.report.text import visible
from archcost.report.units import bytes_text, count_text, ratio_text, si_text
from archcost.trace.training import record_step

if TYPE_CHECKING:
    from torch import nn

    from archcost.trace.call import Inputs
    from archcost.trace.graph import Trace
    from archcost.trace.inputs import DTypes, InputSize
    from archcost.trace.training import MakeOptimizer, Phase, Step

__all__ = [
    "PARTS",
    "Memory",
    "OperatorCost",
    "TrainingStep",
    "fixed_parts",
    "memory_of_step",
    "training_step",
]

_Sizes = dict[str, int]


@dataclass(frozen=True)
class OperatorCost:
    """An operator in a phase of a training step: how often it runs and what it computes."""

    phase: Phase
    operator: str
    times: int
    macs: int
    other_ops: int
    unknown: str | None = None
    """Why its count, or part of it, is not known."""


@dataclass(frozen=True)
class Memory:
    """The bytes of tensors alive at the peak, part by part; they add up to ``total``.

    Not among them is what no tensor holds: the process with PyTorch in it, a CUDA context, fragmentation.
    """

    weights: int
    buffers: int
    inputs: int
    gradients: int = 0
    """The gradients of the parameters, as far as they exist at the peak."""
    optimizer_state: int = 0
    saved: int = 0
    """Activations made in the forward pass that are alive at the peak: saved for backward, and outputs."""
    transient: int = 0
    """Tensors made and freed around the peak: activations in inference, their gradients in training."""
    workspace: int = 0
    """The bytes that the kernel at the peak takes beside its tensors, where they are known."""
    at: str = ""
    """The operation at the peak, and its module."""

    @property
    def parts(self) -> _Sizes:
        """The parts by their names."""
        return {name: value for name, value in asdict(self).items() if name != "at"}

    @property
    def total(self) -> int:
        """The bytes at the peak."""
        return sum(self.parts.values())

    @property
    def largest(self) -> str:
        """The name of the largest part."""
        return max(self.parts, key=lambda name: self.parts[name]).replace("_", " ")


@dataclass(frozen=True)
class TrainingStep(Result):
    """The cost of a training step on paper, as `archcost.training_step` returns it."""

    name: str
    input_text: str
    optimizer: str
    operators: tuple[OperatorCost, ...]
    """Operators by phase, those with most MACs first."""
    modules: dict[str, int]
    """MACs of the backward pass by module, its children not included."""
    params: int
    trainable_params: int
    memory: Memory
    input_size: Any = None
    """The input size, as `archcost.analyze` takes it; None where inputs were given."""
    input_dtypes: Any = None
    in_train_mode: bool = True
    """Whether the step is that of the model in training mode."""
    notes: tuple[str, ...] = ()
    measured_ms: float | None = None
    """Median time of a step on this machine; None where that was not asked for."""

    def macs(self, phase: Phase) -> int:
        """The MACs of a phase."""
        return sum(one.macs for one in self.operators if one.phase == phase)

    @property
    def total_macs(self) -> int:
        """The MACs of a whole step."""
        return sum(one.macs for one in self.operators)

    def document(self, asked: Asked) -> Document:
        """The contents to show; the JSON has the attributes by their names, and the sums by phase."""
        asked.without_depth("a training step")
        of_parts = asked.by == "memory"
        rows = partial(ordered, self.operators, _OPERATORS, Asked() if of_parts else asked, "macs")
        parts = [(name, size) for name, size in self.memory.parts.items()]
        memory = partial(ordered, parts, PARTS, asked if of_parts else Asked(), "bytes")
        operators = Table("operators", _OPERATORS, rows, title=("What it computes", ""))
        table = Table("memory", PARTS, memory, title=("Memory at the peak", visible(self.memory.at)))
        return Document(
            "archcost.training/1",
            [(visible(self.name), f"input {visible(self.input_text)}, {self.optimizer}")],
            [operators, table],
            [operators, table],
            self._record,
            lines=[*self._sentences()],
            notes=lambda grids: [("Note", visible(note)) for note in self.notes],
        )

    def _record(self) -> dict:  # type: ignore[type-arg]
        phases = dict.fromkeys(one.phase for one in self.operators)
        return {
            **{key: value for key, value in asdict(self).items() if not key.startswith("input_d")},
            "memory": {**asdict(self.memory), "total": self.memory.total},
            "macs": {phase: self.macs(phase) for phase in phases},
            "total_macs": self.total_macs,
        }

    def _sentences(self) -> Iterator[str]:
        forward, back = self.macs("forward"), self.macs("backward")
        again = self.macs("recomputed")
        text = f"A training step takes {si_text(self.total_macs)} MACs: {si_text(forward)} forward"
        text += f", {si_text(back)} backward ({ratio_text(back / forward)} of forward)" if forward else ""
        text += f", {si_text(again)} computed again from checkpoints" * bool(again)
        update = sum(one.other_ops for one in self.operators if one.phase == "update")
        of = f"the update of {count_text(self.trainable_params)} parameters"
        yield f"{text}; {of} {si_text(update)} other operations."
        parts = sorted(self.memory.parts.items(), key=lambda item: -item[1])
        said = ", ".join(f"{name.replace('_', ' ')} {bytes_text(size)}" for name, size in parts if size)
        yield f"It holds {bytes_text(self.memory.total)} of tensors at its peak: {said}."
        if frozen := self.params - self.trainable_params:
            yield f"{count_text(frozen)} of {count_text(self.params)} parameters are frozen."
        if self.measured_ms is not None:
            yield f"Measured here: {self.measured_ms:.3f} ms a step."


_OPERATORS: tuple[Column[OperatorCost], ...] = (
    words("operator", "Operator", "The operator of PyTorch", keep=9),
    words("phase", "Phase", "forward, backward, recomputed (from checkpoints) or update", keep=8),
    words("times", "Times", "How often it runs in a step", dtype="int64", show=count_text, keep=4),
    words("macs", "MACs", "Its multiply-accumulates", dtype="int64", show=si_text, keep=7),
    words("other_ops", "Other ops", "Its other arithmetic operations", dtype="int64", show=si_text, keep=6),
    words("unknown", "Not counted", "Why its count, or part of it, is not known", missing="", keep=5),
)
PARTS: tuple[Column[tuple[str, int]], ...] = (
    words("part", "Part", "What the memory holds", lambda row: row[0].replace("_", " "), keep=9),
    number("bytes", "Bytes", "Bytes at the peak", bytes_text, lambda row: row[1], dtype="int64", keep=8),
)


def training_step(
    model: nn.Module | str,
    inputs: Inputs = None,
    *,
    input_size: InputSize | None = None,
    dtype: DTypes | None = None,
    optimizer: str | MakeOptimizer = "adamw",
) -> TrainingStep:
    """A training step on paper; `archcost.training_step` says what the arguments are."""
    from archcost.analysis.analysis import Forward, analyze, analyze_spec
    from archcost.analysis.points import dtypes_of, size_of

    if isinstance(model, str):
        options: Forward = {"dtype": dtype, "device": None, "progress": False}
        analysis, built = analyze_spec(model, inputs, input_size, None, options)
    else:
        analysis, built = analyze(model, inputs, input_size=input_size, dtype=dtype, progress=False), model
    if inputs is None:
        input_size = size_of(analysis.trace, "training_step") if input_size is None else input_size
        dtype = dtypes_of(analysis.trace) if dtype is None or isinstance(model, str) else dtype
    step = record_step(built, inputs, input_size=input_size, dtype=dtype, optimizer=optimizer)
    total = analysis.total
    notes = () if step.was_training else ("the model was in eval mode; a step is counted in training mode",)
    return TrainingStep(
        name=analysis.name,
        input_text=analysis.input_text,
        optimizer=optimizer if isinstance(optimizer, str) else getattr(optimizer, "__name__", "an optimiser"),
        operators=_operators(step),
        modules=_by_module(step),
        params=total.params,
        trainable_params=total.trainable_params,
        memory=memory_of_step(step),
        input_size=input_size,
        input_dtypes=dtype,
        notes=notes,
    )


def _operators(step: Step) -> tuple[OperatorCost, ...]:
    found: dict[tuple[Phase, str], OperatorCost] = {}
    for op, phase in zip(step.trace.ops, step.phases, strict=True):
        if phase == "first update":
            continue
        counted = count(op)
        if not (counted.macs or counted.other_ops or counted.reason):
            continue  # a view, or a tensor moved or filled
        old = found.get((phase, op.base), OperatorCost(phase, op.base, 0, 0, 0))
        found[phase, op.base] = replace(
            old,
            times=old.times + 1,
            macs=old.macs + (counted.macs or 0),
            other_ops=old.other_ops + (counted.other_ops or 0),
            unknown=old.unknown or counted.reason,
        )
    return tuple(sorted(found.values(), key=lambda one: (-one.macs, -one.other_ops)))


def _by_module(step: Step) -> dict[str, int]:
    sums: Counter[str] = Counter()
    for op, phase in zip(step.trace.ops, step.phases, strict=True):
        if phase == "backward" and (macs := count(op).macs):
            sums[step.trace.module_of(op)] += macs
    return dict(sums)


def memory_of_step(step: Step, device: str = "cpu") -> Memory:
    """The memory at the peak of a step in the steady state: the optimiser's state is there from the start."""
    trace, phases = step.trace, step.phases
    ends = len(trace.ops)
    lives: defaultdict[str, list[int]] = defaultdict(lambda: [0] * (ends + 1))
    state = 0
    unseen = {index: size for op in trace.ops for index, size in kept_for_backward(op).items()}
    for one in trace.storages:
        if one.created_by is None:
            continue
        nbytes = one.nbytes + unseen.get(one.index, 0)
        born = phases[one.created_by]
        kept = one.freed_after is None or one.freed_after >= ends - 1
        if born == "first update" and kept:
            state += one.nbytes  # there from the first step on
            continue
        if one.index in step.gradients:
            part = "gradients"
        else:
            part = "saved" if born == "forward" and _outlives(one.freed_after, phases) else "transient"
        lives[part][one.created_by] += nbytes
        if one.freed_after is not None:
            lives[part][max(one.freed_after, one.created_by) + 1] -= nbytes
    alive = {part: [*accumulate(changes)] for part, changes in lives.items()}
    extra = [workspace_of(op, device) for op in trace.ops]
    sums = [sum(each[at] for each in alive.values()) + extra[at] for at in range(ends)]
    steady = [at for at in range(ends) if phases[at] != "first update"]
    peak = max(steady, key=lambda at: sums[at])
    op = trace.ops[peak]
    parts = {part: each[peak] for part, each in alive.items()}
    where = trace.module_of(op) or "the model"
    at = f"{phases[peak]} of {op.label} in {where}".replace("update of", "update,")
    return Memory(*fixed_parts(trace), **parts, optimizer_state=state, workspace=extra[peak], at=at)


def _outlives(freed: int | None, phases: tuple[Phase, ...]) -> bool:
    """Whether a storage of the forward pass is alive after it."""
    return freed is None or freed + 1 >= len(phases) or phases[freed + 1] != "forward"


def fixed_parts(trace: Trace) -> tuple[int, int, int]:
    """The bytes that are there whatever runs: weights, buffers, inputs."""
    sums = Counter({"parameter": 0, "buffer": 0})
    for state in trace.state:
        sums[state.kind] += state.nbytes
    inputs = sum(one.nbytes for one in trace.storages if one.origin == "input")
    return sums["parameter"], sums["buffer"], inputs
