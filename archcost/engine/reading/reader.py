"""Reader: storages and in-place writes of a Trace become values of a graph that are assigned once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from archcost.engine.graph import Graph, Node, Value
from archcost.engine.operators import Operator
from archcost.engine.reading.constants import Constants
from archcost.engine.reading.registry import READERS, Refused
from archcost.engine.torch_call import Slot, TorchCall, function
from archcost.trace.graph import Argument, Op, TensorRef, Trace, refs

__all__ = ["Arguments", "Reader"]

_Key = tuple[tuple[int, ...], tuple[int, ...], int]

# Tags of operators whose result, or its shape, depends on values in a way that a list of steps cannot follow.
_DECIDES = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
_FILLED = {
    f"aten.{name}" for name in ("new_zeros", "new_ones", "new_full", "zeros_like", "ones_like", "full_like")
}


class Arguments:
    """The arguments of an operation by the names of its schema, tensors as values."""

    def __init__(self, reader: Reader, op: Op) -> None:
        self.op = op
        schema = function(op.name)._schema
        self._values: dict[str, Any] = {
            one.name: one.default_value for one in schema.arguments if one.has_default_value()
        }
        for one, given in zip(schema.arguments, op.args, strict=False):
            self._values[one.name] = given
        self._values.update(op.kwargs)
        self._reader = reader

    def __getitem__(self, name: str) -> Any:
        """An argument; a tensor, or each tensor of a list, as a `Value`."""
        return self._reader.argument(self._values[name])

    @property
    def first(self) -> Value:
        """The first argument, where it is a tensor."""
        found = self._reader.argument(self.op.args[0])
        assert isinstance(found, Value)
        return found

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the first result."""
        return self.op.outputs[0].shape


class Reader:
    """The state of reading one trace."""

    def __init__(self, trace: Trace, state: Mapping[str, Tensor], constants: Constants) -> None:
        self._trace, self._state, self._constants = trace, state, constants
        self._nodes: list[Node] = []
        self._known: dict[int, dict[_Key, Value]] = {}
        self._inputs: list[Value] = []
        for ref in refs(trace.inputs):
            if _key(ref) not in self._known.setdefault(ref.storage, {}):
                self._known[ref.storage][_key(ref)] = Value(ref.shape, dtype=ref.dtype)
            self._inputs.append(self._known[ref.storage][_key(ref)])
        self._module, self._dtype = "", torch.float32
        self._read_later = {ref.storage for op in trace.ops for ref in op.tensors()}
        self._read_later.update(ref.storage for ref in refs(trace.outputs))

    def graph(self) -> Graph:
        for op in self._trace.ops:
            self._read(op)
        stored = {self.value(ref): ref.storage for ref in refs(self._trace.inputs)}
        outputs = tuple(self._returned(ref, stored) for ref in refs(self._trace.outputs))
        return Graph(tuple(self._nodes), tuple(self._inputs), outputs)

    def _returned(self, ref: TensorRef, stored: dict[Value, int]) -> Value:
        """An output; where the model returns a copy it is one."""
        value = self.value(ref)
        if stored.setdefault(value, ref.storage) == ref.storage:
            return value
        copy = TorchCall("aten.clone.default", (Slot(0),))  # type: ignore[arg-type]
        return self.add(copy, value, shape=value.shape, dtype=value.dtype)

    def add(
        self, operator: Operator, *inputs: Value, shape: Sequence[int], dtype: torch.dtype | None = None
    ) -> Value:
        """A new node; its result, of the dtype of the operation's first result where none is given."""
        output = Value(tuple(shape), dtype=dtype or self._dtype)
        self._nodes.append(Node(operator, inputs, output, (self._module,)))
        return output

    def argument(self, given: Any) -> Any:
        """An argument with a `Value` for each tensor."""
        if isinstance(given, TensorRef):
            return self.value(given)
        if isinstance(given, (tuple, list)):
            return tuple(self.argument(item) for item in given)
        return given

    def constant(self, number: float) -> Value:
        return Value((), torch.tensor(float(number), dtype=torch.float64))

    def value(self, ref: TensorRef) -> Value:
        """The value that a tensor has now."""
        known = self._known.setdefault(ref.storage, {})
        if _key(ref) not in known:
            storage = self._trace.storages[ref.storage]
            if ref in self._constants:
                known[_key(ref)] = Value(ref.shape, self._constants[ref], dtype=ref.dtype)
                return known[_key(ref)]
            if storage.origin not in ("parameter", "buffer") or storage.name is None:
                raise Refused(
                    f"{self._module or 'the model'}: a tensor is read that differs from one call to the next"
                    if storage.origin == "constant"
                    else f"{self._module or 'the model'}: a view is read after what it views was changed"
                )
            tensor = self._state[storage.name].detach()
            viewed = tensor.as_strided(ref.shape, ref.stride, ref.offset)
            known[_key(ref)] = Value(ref.shape, viewed, (storage.name,), ref.dtype)
        return known[_key(ref)]

    def _read(self, op: Op) -> None:
        self._module = self._trace.module_of(op)
        overload = function(op.name)
        if torch.Tag.nondeterministic_seeded in overload.tags and self._draws(op):
            raise Refused(f"{self._module or 'the model'}: {op.label} draws random numbers at each call")
        for ref in op.outputs:
            if ref.dtype.is_floating_point and ref.dtype is not torch.float32:
                raise Refused(f"{self._module or 'the model'}: {op.label} computes in {ref.dtype}")
        if self._decides(op):
            raise Refused(f"{self._module or 'the model'}: values decide what is computed ({op.label})")
        mutable = overload._schema.is_mutable
        if mutable:
            self._check_writes(op)
        self._dtype = op.outputs[0].dtype if op.outputs else torch.float32
        results = self._results(op, mutable)
        for ref, value in zip(op.outputs, results, strict=False):
            if value.shape != ref.shape:
                raise AssertionError(f"{op.name}: {value.shape} for {ref.shape}")
            if mutable and value.constant is None:  # the views of a constant are real ones, and see it change
                self._known[ref.storage] = {}
            self._known.setdefault(ref.storage, {})[_key(ref)] = value

    def _decides(self, op: Op) -> bool:
        if op.base == "aten.index":
            return any(ref.dtype in (torch.bool, torch.uint8) for ref in refs(op.args[1]))
        return op.base == "torchvision.nms" or not _DECIDES.isdisjoint(function(op.name).tags)

    def _draws(self, op: Op) -> bool:
        """Whether an operator that may draw random numbers does."""
        if "dropout_p" in (names := [one.name for one in function(op.name)._schema.arguments]):
            return bool(Arguments(self, op)["dropout_p"])
        switch = next((name for name in names if name in ("train", "training")), None)
        return switch is None or Arguments(self, op)[switch] is not False

    def _check_writes(self, op: Op) -> None:
        for index in op.writes:
            storage = self._trace.storages[index]
            if storage.origin != "operation":
                what = storage.name or f"its {storage.origin}"
                raise Refused(f"{self._module or 'the model'}: {op.label} changes {what}")

    def _results(self, op: Op, mutable: bool) -> tuple[Value, ...]:
        arguments = Arguments(self, op)
        tensors = [self.value(ref) for ref in op.tensors()]
        if op.base in _FILLED:  # from the shape of a tensor, not its values
            filled = torch.empty(tensors[0].shape, dtype=next(op.tensors()).dtype)
            tensors = [Value(filled.shape, filled)]
            return self._folded(op, tensors, tensors)
        if all(value.constant is not None for value in tensors):
            return self._folded(op, tensors)
        base = op.base.removesuffix("_") if mutable else op.base
        if handler := READERS.get(base):
            found = handler(self, arguments)
            made = (found,) if isinstance(found, Value) else found
            if made is not None and self._all_read(op, made):
                return made
        if mutable:  # the same operator, its result in a tensor of its own
            name = base + op.name.removeprefix(op.base)
            if base == op.base or not _takes_the_same(name, op.name):
                raise Refused(f"{self._module or 'the model'}: {op.label} writes in place")
            op = replace(op, name=name)
        return self._called(op, tensors)

    def _all_read(self, op: Op, made: Sequence[Value]) -> bool:
        """Whether a handler made all that is read: not so for the indices of a pool."""
        return not any(ref.storage in self._read_later for ref in op.outputs[len(made) :])

    def _folded(self, op: Op, tensors: list[Value], first: list[Value] | None = None) -> tuple[Value, ...]:
        """Constants, computed now; ``first`` stand in for the first arguments."""

        def real(given: Any) -> Any:
            if isinstance(given, Value):
                return given.constant
            if isinstance(given, tuple):
                return [real(item) for item in given]
            return given

        with torch.no_grad():
            kwargs = {key: real(self.argument(value)) for key, value in op.kwargs.items()}
            if "device" in kwargs:
                kwargs["device"] = "cpu"
            args = [real(one) for one in first or ()]
            args += [real(self.argument(value)) for value in op.args[len(args) :]]
            found = function(op.name)(*args, **kwargs)
        results = found if isinstance(found, (tuple, list)) else (found,)
        state = tuple(dict.fromkeys(name for value in tensors for name in value.state))
        return tuple(
            Value(tuple(one.shape), one, state, one.dtype) for one in results if isinstance(one, Tensor)
        )

    def _called(self, op: Op, tensors: list[Value]) -> tuple[Value, ...]:
        """A call back into PyTorch."""
        places: list[Value] = []

        def slotted(given: Any) -> Argument:
            if isinstance(given, TensorRef):
                places.append(self.value(given))
                return Slot(len(places) - 1)  # type: ignore[return-value]
            if isinstance(given, (tuple, list)):
                return [slotted(item) for item in given]
            return given  # type: ignore[no-any-return]

        args = tuple(slotted(item) for item in op.args)
        kwargs = {key: slotted(item) for key, item in op.kwargs.items() if key != "device"}
        several = len(op.outputs) > 1 or _returns_list(op)

        def result(index: int, ref: TensorRef) -> Value:
            call = TorchCall(op.name, args, kwargs, index if several else None)
            return self.add(call, *places, shape=ref.shape, dtype=ref.dtype)

        return tuple(result(index, ref) for index, ref in enumerate(op.outputs))


def _takes_the_same(name: str, other: str) -> bool:
    """Whether there is an operator of this name, with the arguments of another one."""
    try:
        schemas = function(name)._schema, function(other)._schema
    except AttributeError:
        return False
    first, second = ([(one.name, str(one.type)) for one in schema.arguments] for schema in schemas)
    return first == second


def _returns_list(op: Op) -> bool:
    returned = function(op.name)._schema.returns
    return len(returned) > 1 or isinstance(returned[0].type, torch.ListType) if returned else False


def _key(ref: TensorRef) -> _Key:
    return (ref.shape, ref.stride, ref.offset)
