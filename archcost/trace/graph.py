"""Trace: one forward pass as plain data, from which every analysis can be repeated without the model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from math import prod
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from archcost.trace.sites import Site

if TYPE_CHECKING:
    from types import EllipsisType

    import torch

Argument: TypeAlias = """(
    TensorRef | PackedWeights | complex | str | bytes | slice | EllipsisType | torch.dtype | torch.layout
    | torch.device | torch.memory_format | Sequence[Argument] | Mapping[Any, Argument] | None
)"""
"""An argument of an operator as a Trace holds it, or a structure of them, such as the outputs of a model."""
Args = tuple[Any, ...]
"""The positional arguments of an operator, which its schema types, not Python."""
Kwargs = dict[str, Any]
"""The keyword arguments of an operator."""
StateKind = Literal["parameter", "buffer"]
Origin = Literal["parameter", "buffer", "input", "constant", "operation"]


class TensorRef(NamedTuple):
    """A tensor as an operation saw it: a view of a storage of the Trace, without its values."""

    storage: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    dtype: torch.dtype
    device: str

    @property
    def numel(self) -> int:
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the distinct elements: a dimension expanded with stride 0 is read once."""
        elements = prod(self.shape)
        if elements and 0 in self.stride:
            elements = prod([n for n, s in zip(self.shape, self.stride, strict=True) if s])
        return elements * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class PackedWeights:
    """The weights of an int8 operator, which PyTorch stores packed: their unpacked shape and geometry."""

    shape: tuple[int, ...]
    bias: int
    groups: int
    transposed: bool
    nbytes: int
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()


@dataclass(slots=True)
class Storage:
    """A block of memory, from the operation that allocated it to the last one that ran while it lived."""

    index: int
    nbytes: int
    origin: Origin
    name: str | None = None
    created_by: int | None = None
    freed_after: int | None = None


@dataclass(frozen=True, slots=True)
class Op:
    """An operation of the forward pass.

    ``args`` and ``kwargs`` are those of the operator, each tensor replaced by its `TensorRef`.
    ``reads`` and ``writes`` are storages; an output that aliases an input is in neither.
    ``fed_by`` are the operations whose results it read, each an index into ``Trace.ops``.
    """

    index: int
    name: str
    call: int
    args: Args
    kwargs: dict[str, Any]
    outputs: tuple[TensorRef, ...]
    reads: tuple[int, ...]
    writes: tuple[int, ...]
    fed_by: tuple[int, ...]
    inner_bytes: int = 0
    """Bytes of the intermediate tensors of an operation that stands for several, outputs excluded."""
    inner_peak_bytes: int = 0
    """The most bytes of intermediate tensors alive at once, outputs excluded."""

    @property
    def base(self) -> str:
        """The operator without its overload: ``aten.convolution``."""
        return _base(self.name)

    @property
    def label(self) -> str:
        """The operator's name without namespace and underscores: ``relu`` for ``aten.relu_``."""
        return self.base.rpartition(".")[2].strip("_")

    def tensors(self) -> Iterator[TensorRef]:
        """Every tensor among the arguments, those in lists included."""
        for value in (*self.args, *self.kwargs.values()):
            if type(value) is TensorRef:
                yield value
            elif isinstance(value, (tuple, list, dict)):
                yield from refs(value)


def refs(value: Argument) -> Iterator[TensorRef]:
    """The TensorRefs in a structure of tuples, lists and dicts, in order."""
    if isinstance(value, TensorRef):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from refs(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from refs(item)


@cache
def _base(name: str) -> str:
    return name.rpartition(".")[0] if name.count(".") > 1 else name


@dataclass(slots=True)
class ModuleCall:
    """A call of a module: operations ``first_op`` to ``end_op - 1`` ran in it and its children."""

    index: int
    module: str
    parent: int | None
    inputs: tuple[TensorRef, ...]
    first_op: int
    end_op: int = -1
    outputs: tuple[TensorRef, ...] = ()


@dataclass(frozen=True, slots=True)
class ModuleInfo:
    """A module as registered: its first name, and the other names it can be reached by."""

    name: str
    type_name: str
    training: bool
    aliases: tuple[str, ...] = ()
    details: str = ""
    """The arguments that ``repr(module)`` would show."""
    built_at: Site | None = None
    """The line of code that built it, or the head of its class; None where neither is known."""


@dataclass(frozen=True, slots=True)
class StateInfo:
    """A parameter or buffer, listed once under its first name; ``aliases`` are other names (weight tying)."""

    name: str
    owner: str
    kind: StateKind
    shape: tuple[int, ...]
    numel: int
    nbytes: int
    requires_grad: bool
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Failure:
    """The end of a forward pass that raised: the innermost module, what it was given, and what it said."""

    module: str
    inputs: tuple[TensorRef, ...]
    """The tensors that the operation was given beside weights, or the module where no operation raised."""
    operation: str
    """The operator that raised; empty where other code did."""
    message: str


@dataclass(frozen=True)
class Trace:
    """A forward pass of a model without gradients: operations, module calls, storages and state.

    ``device`` is where it ran: ``meta`` (nothing was computed) or the model's own device.
    ``kept_for_backward`` is the activation bytes that autograd saves for backward, by module name, from a
    second pass with gradients; None where that pass failed, and a note says why.
    ``notes`` are the assumptions made, in words; ``modules`` is in order of definition.
    """

    model_name: str
    device: str
    ops: tuple[Op, ...]
    calls: tuple[ModuleCall, ...]
    storages: tuple[Storage, ...]
    modules: dict[str, ModuleInfo]
    state: tuple[StateInfo, ...]
    inputs: tuple[Args, Kwargs]
    outputs: Argument
    kept_for_backward: dict[str, int] | None
    notes: tuple[str, ...] = field(default=())
    failed: Failure | None = None
    """Why the pass ended before its end; ``outputs`` is None then."""

    def module_of(self, op: Op) -> str:
        """The name of the module whose forward ran the operation."""
        return self.calls[op.call].module
