"""`largest_batch` and `largest_input`: what fits into a memory, by bisection on what is counted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from operator import add
from typing import TYPE_CHECKING, Any

from archcost.analysis.points import dtypes_of, with_batch, with_side
from archcost.analysis.sweep import Counter, Swept
from archcost.analysis.training import PARTS, Memory, fixed_parts, memory_of_step
from archcost.analysis.workspace import workspace_of
from archcost.errors import InputError
from archcost.report.document import Asked, Document, Table, ordered
from archcost.report.quantity import quantity
from archcost.report.result import Result
from archcost.report.text import visible
from archcost.report.units import bytes_text, shape_text
from archcost.trace.training import record_step

if TYPE_CHECKING:
    from archcost.trace.inputs import DTypes, InputSize
    from archcost.trace.training import MakeOptimizer

__all__ = ["Largest", "largest_batch", "largest_input", "memory_of"]

# Nobody has a batch or a side above this; the answer is then that number.
_MOST = 1 << 20


@dataclass(frozen=True)
class Largest(Result):
    """The largest batch or side that fits into a memory, with every part of it."""

    name: str
    what: str
    """``batch`` or ``side``."""
    value: int
    input_size: Any
    """The largest input size that fits."""
    limit: int
    """The memory, in bytes."""
    training: bool
    optimizer: str
    memory: Memory
    """The bytes held at that size."""
    next_value: int
    """The next larger batch or side."""
    next_bytes: int | None
    """The bytes that one more would take; None where the model does not run there."""
    notes: tuple[str, ...] = ()

    def document(self, asked: Asked) -> Document:
        """The contents to show; the JSON has the attributes by their names."""
        asked.without_depth("a largest size")
        parts = [(name, size) for name, size in self.memory.parts.items()]
        at = ("Memory at the peak", visible(self.memory.at))
        table = Table("memory", PARTS, partial(ordered, parts, PARTS, asked, "bytes"), title=at)
        return Document(
            "archcost.largest/1",
            [(visible(self.name), f"{bytes_text(self.limit)}, {self._use}")],
            [table],
            [table],
            lambda: {**asdict(self), "memory": {**asdict(self.memory), "total": self.memory.total}},
            lines=[self.sentence],
            notes=lambda grids: [("Not counted", _BESIDE), *(("Note", visible(note)) for note in self.notes)],
        )

    @property
    def _use(self) -> str:
        return f"training with {self.optimizer}" if self.training else "inference"

    @property
    def sentence(self) -> str:
        """The answer in a sentence."""
        more = "more does not run" if self.next_bytes is None else (
            f"{self.next_value} would take {bytes_text(self.next_bytes)}"
        )  # fmt: skip
        size = f" ({shape_text(self.input_size)})" if isinstance(self.input_size, tuple) else ""
        return (
            f"{bytes_text(self.limit)} hold a {self.what} of {self.value} for {self._use}{size}: "
            f"{bytes_text(self.memory.total)}; {more}."
        )


_BESIDE = "the process with PyTorch in it (200 to 400 MB, on CUDA the context), and fragmentation"


def memory_of(
    model: Swept | Counter,
    input_size: InputSize | None = None,
    *,
    training: bool = False,
    optimizer: str | MakeOptimizer = "adamw",
    dtype: DTypes | None = None,
    device: str = "cpu",
) -> Memory:
    """The bytes of tensors at the peak of inference or of a training step, part by part, on paper.

    Args:
        model: a module, which comes back untouched, or a SPEC.
        input_size: as in `archcost.analyze`.
        training: a training step instead of inference.
        optimizer: as in `archcost.training_step`.
        dtype: that of the inputs, as in `archcost.analyze`: ``torch.int64`` for a model of tokens.
        device: ``cpu``, with the workspace of oneDNN; on another device the workspace is not known.
    """
    counter = model if isinstance(model, Counter) else Counter(model, dtype)
    size = counter.own_size() if input_size is None else input_size
    analysis, built = counter.counted(size, None)
    if training:
        step = record_step(built, input_size=size, dtype=dtypes_of(analysis.trace), optimizer=optimizer)
        return memory_of_step(step, device)
    if not analysis.operations:
        return Memory(*fixed_parts(analysis.trace))
    extra = [workspace_of(op, device) for op in analysis.trace.ops]
    own = [cost.live_bytes - cost.op.inner_peak_bytes for cost in analysis.operations]
    live = [*map(add, own, extra)]
    peak = live.index(max(live))
    op = analysis.trace.ops[peak]
    where = analysis.trace.module_of(op) or "the model"
    fixed = fixed_parts(analysis.trace)
    return Memory(*fixed, transient=own[peak], workspace=extra[peak], at=f"{op.label} in {where}")


def largest_batch(
    model: Swept,
    input_size: InputSize | None = None,
    *,
    memory: str | int,
    training: bool = True,
    optimizer: str | MakeOptimizer = "adamw",
    dtype: DTypes | None = None,
    device: str = "cpu",
) -> Largest:
    """The largest batch that fits into a memory, counted without computing.

    Counted are the bytes of tensors at the peak: weights, gradients, the optimiser's state, what is saved for
    backward, and what comes and goes. The process itself and fragmentation are not.

    Args:
        model: a module, which comes back untouched, or a SPEC.
        input_size: as in `archcost.analyze`; its batch does not matter.
        memory: ``"8 GB"``, ``"7.5 GiB"`` or bytes.
        training: a training step; False is inference.
        optimizer: a name of ``torch.optim``, or a function of parameters that makes an optimiser.
        dtype: that of the inputs, as in `archcost.analyze`: ``torch.int64`` for a model of tokens.
        device: ``cpu``, with the workspace of oneDNN; on another device the workspace is not known.

    Raises:
        InputError: the memory does not hold a batch of 1; the message says what is missing, and the largest
            part.
    """
    counter = Counter(model, dtype)
    size = counter.own_size() if input_size is None else input_size
    return _largest("batch", counter, partial(with_batch, size), 1, memory, training, optimizer, device)


def largest_input(
    model: Swept,
    input_size: InputSize | None = None,
    *,
    memory: str | int,
    training: bool = False,
    optimizer: str | MakeOptimizer = "adamw",
    dtype: DTypes | None = None,
    device: str = "cpu",
    multiple: int = 32,
) -> Largest:
    """The largest side of the input that fits into a memory, counted without computing.

    Args:
        model: as in `largest_batch`.
        input_size: an input size with the batch; its side does not matter.
        memory: as in `largest_batch`.
        training: a training step; by default inference.
        optimizer: as in `largest_batch`.
        dtype: as in `largest_batch`.
        device: as in `largest_batch`.
        multiple: sides tried are multiples of this number.

    Raises:
        InputError: the memory does not hold the smallest side, or the model does not run there.
    """
    if not isinstance(multiple, int) or isinstance(multiple, bool) or multiple < 1:
        raise InputError(f"largest_input: multiple must be a whole number of at least 1; got {multiple!r}")
    counter = Counter(model, dtype)
    size = counter.own_size() if input_size is None else input_size
    return _largest("side", counter, partial(with_side, size), multiple, memory, training, optimizer, device)


def _largest(
    what: str,
    counter: Counter,
    sized: Callable[[int], InputSize],
    unit: int,
    memory: str | int,
    training: bool,
    optimizer: str | MakeOptimizer,
    device: str,
) -> Largest:
    caller = "largest_batch" if what == "batch" else "largest_input"
    limit = int(quantity(memory, "bytes", what=f"{caller}: memory"))
    found: dict[int, Memory] = {}

    def at(number: int) -> Memory:
        if number not in found:
            size = sized(number * unit)
            found[number] = memory_of(counter, size, training=training, optimizer=optimizer, device=device)
        return found[number]

    name = optimizer if isinstance(optimizer, str) else getattr(optimizer, "__name__", "an optimiser")
    least = at(1)
    if least.total > limit:
        use = f"training with {name}" if training else "inference"
        part = least.parts[least.largest.replace(" ", "_")]
        raise InputError(
            f"{caller}: {bytes_text(limit)} do not hold a {what} of {unit} of {counter.name} for {use}: "
            f"it takes {bytes_text(least.total)}, {bytes_text(least.total - limit)} more; the largest part "
            f"is {least.largest}, {bytes_text(part)}"
        )
    low, high = _bisected(lambda number: at(number).total, limit, _MOST // unit)
    return Largest(
        name=counter.name,
        what=what,
        value=low * unit,
        input_size=sized(low * unit),
        limit=limit,
        training=training,
        optimizer=name,
        memory=found[low],
        next_value=high * unit,
        next_bytes=found[high].total if high in found else None,
        notes=counter.notes,
    )


def _bisected(total: Callable[[int], int], limit: int, most: int) -> tuple[int, int]:
    """The largest number from 1 whose total fits, and the next; guessed on a straight line, then halved."""
    low, high = 1, 0  # high 0: none is known that does not fit
    totals = {1: total(1)}
    while high - low != 1 and low < most:
        a, b = (low, high) if high else (low, 2 * low)
        if b not in totals and not high:
            totals[b] = total(b)
        slope = max(1.0, (totals[b] - totals[a]) / (b - a))
        guess = low + int((limit - totals[low]) / slope)
        # On a straight line the guess fits, and its neighbour does not.
        guess += guess in totals and totals[guess] <= limit
        guess = min(max(guess, low + 1), high - 1) if high else min(max(guess, low + 1), 64 * low)
        totals[guess] = total(guess)
        for number, nbytes in totals.items():
            if nbytes <= limit:
                low = max(low, number)
            else:
                high = min(high or number, number)
    return low, low + 1
