"""Binding: from a call's arguments to the tensors that a program reads, and back to the model's outputs."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from archcost.engine.graph import Graph
from archcost.engine.reading.registry import Refused
from archcost.trace.call import Call
from archcost.trace.graph import TensorRef, Trace, refs
from archcost.trace.inputs import example, map_tensors, tensors_in

__all__ = ["Arguments", "Outputs"]

_SIMPLE = (type(None), bool, int, float, complex, str, bytes, slice, torch.Size, torch.dtype, torch.device)


class _Mismatch(Exception):
    """A call with other arguments than those that a program is for."""


class Arguments:
    """Recognises the calls that a program is for: like one that was made, but for its tensors' elements.

    Args:
        call: the call.
        trace: of that call.
        forward: the model's own, whose parameters name arguments that are passed in another order.

    Raises:
        Refused: an argument is of a type that cannot be compared.
    """

    def __init__(self, call: Call, trace: Trace, forward: Callable[..., Any]) -> None:
        known: list[TensorRef] = list(refs(trace.inputs))
        given = call.tensors
        if [tuple(one.shape) for one in given] != [ref.shape for ref in known]:
            raise Refused("its inputs hold tensors where the trace does not see them")
        if not all(ref.device in ("meta", "cpu") for ref in known) or not all(one.is_cpu for one in given):
            raise Refused("its inputs are not on the CPU")
        if not all(one.numel() for one in given):
            raise Refused("its inputs are empty")
        if any(one.is_floating_point() and one.dtype is not torch.float32 for one in given):
            raise Refused("its inputs are not float32, which alone the kernels compute in")
        self._shapes = [one.shape for one in given]
        self._dtypes = [one.dtype for one in given]
        self._first = [known.index(ref) for ref in known]
        """For each tensor the first that was the same one."""
        counter = iter(range(len(given)))
        self._args = tuple(_pattern(one, counter) for one in call.args)
        self._kwargs = {key: _pattern(one, counter) for key, one in call.kwargs.items()}
        self._single = len(call.args) == 1 and not call.kwargs and isinstance(call.args[0], Tensor)
        self._names = list(inspect.signature(forward).parameters)[1:]

    def tensors(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor] | None:
        """The call's own tensors in the order of the trace; None where it is another call."""
        found: list[Any] = []
        if self._single and len(args) == 1 and not kwargs:
            found = [args[0]]
        else:
            try:
                if len(args) != len(self._args) or kwargs.keys() != self._kwargs.keys():
                    args, kwargs = self._reordered(args, kwargs)
                for pattern, value in zip(self._args, args, strict=True):
                    _match(pattern, value, found)
                for key, pattern in self._kwargs.items():
                    _match(pattern, kwargs[key], found)
            except (_Mismatch, TypeError, ValueError):
                return None
        for x, shape, dtype in zip(found, self._shapes, self._dtypes, strict=True):
            if type(x) is not Tensor or x.shape != shape or x.dtype is not dtype:
                return None
            if not x.is_cpu or x.layout is not torch.strided or x.is_neg():
                return None
        if any(found[first] is not found[number] for number, first in enumerate(self._first)):
            return None
        return found

    def read(self, call: Call) -> list[Tensor]:
        """The tensors of a call that fits the program, contiguous."""
        found = self.tensors(*call)
        assert found is not None
        return [x.contiguous() for x in found]

    def example(self) -> Call:
        """A call like those, with tensors as `archcost.trace.inputs.example` makes them."""
        made = [
            example(tuple(shape), dtype, "cpu")
            for shape, dtype in zip(self._shapes, self._dtypes, strict=True)
        ]
        given = [made[first] for first in self._first]
        return Call(
            tuple(_with(one, given) for one in self._args),
            {key: _with(one, given) for key, one in self._kwargs.items()},
        )

    def _reordered(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The call with each argument where the program's has it: by position, or by name."""
        names = self._names
        if len(args) > len(names) or len(self._args) > len(names):
            raise _Mismatch
        named = dict(zip(names, args, strict=False))
        if named.keys() & kwargs.keys():
            raise _Mismatch
        named |= kwargs
        if named.keys() != {*names[: len(self._args)], *self._kwargs}:
            raise _Mismatch
        return tuple(named[name] for name in names[: len(self._args)]), {
            key: named[key] for key in self._kwargs
        }


@dataclasses.dataclass(frozen=True)
class _Place:
    """The place of a tensor in a pattern."""

    index: int


def _pattern(value: Any, counter: Any) -> Any:
    if isinstance(value, Tensor):
        return _Place(next(counter))
    if type(value) in _SIMPLE:
        return value
    if isinstance(value, (tuple, list)):
        return (type(value), [_pattern(item, counter) for item in value])
    if type(value) is dict:
        return {key: _pattern(item, counter) for key, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {one.name: getattr(value, one.name) for one in dataclasses.fields(value)}
        return (type(value), {key: _pattern(item, counter) for key, item in fields.items()})
    raise Refused(f"an argument is a {type(value).__name__}, which cannot be compared with another call's")


def _with(pattern: Any, tensors: Sequence[Tensor]) -> Any:
    """The value that a pattern was made of, with other tensors."""
    if type(pattern) is _Place:
        return tensors[pattern.index]
    if type(pattern) is dict:
        return {key: _with(one, tensors) for key, one in pattern.items()}
    if type(pattern) is not tuple:
        return pattern
    kind, inner = pattern
    if isinstance(inner, dict):
        return kind(**_with(inner, tensors))
    items = [_with(one, tensors) for one in inner]
    return kind(*items) if hasattr(kind, "_fields") else kind(items)


def _match(pattern: Any, value: Any, found: list[Any]) -> None:
    """Collect the tensors of a value that is like the pattern."""
    if type(pattern) is _Place:
        found.append(value)
    elif type(pattern) is dict:
        if type(value) is not dict or list(value) != list(pattern):
            raise _Mismatch
        for key, inner in pattern.items():
            _match(inner, value[key], found)
    elif type(pattern) is tuple:
        kind, inner = pattern
        if type(value) is not kind:
            raise _Mismatch
        if isinstance(inner, dict):
            for key, one in inner.items():
                _match(one, getattr(value, key), found)
        else:
            if len(inner) != len(value):
                raise _Mismatch
            for one, item in zip(inner, value, strict=True):
                _match(one, item, found)
    elif type(pattern) is not type(value) or pattern != value:
        raise _Mismatch


class Outputs:
    """Puts the tensors that a program returns into the structure of the model's outputs.

    Args:
        returned: outputs of the model for the traced call.
        graph: as it was read.

    Raises:
        Refused: an output is of a type into which nothing can be put, or has tensors unknown to the trace.
    """

    def __init__(self, returned: Any, graph: Graph) -> None:
        if odd := _odd(returned):
            raise Refused(f"it returns a {odd}, into which tensors cannot be put")
        given = tensors_in(returned)
        if [tuple(one.shape) for one in given] != [value.shape for value in graph.outputs] or not given:
            raise Refused("it returns tensors where the trace does not see them")
        self._places: list[Tensor] = []
        self._template = map_tensors(returned, self._placed)
        self._plain = type(returned) in (tuple, list) and all(isinstance(one, Tensor) for one in returned)
        # An output that is an input is that object, and a known one is nobody else's.
        inputs = list(graph.inputs)
        self._from = {i: inputs.index(value) for i, value in enumerate(graph.outputs) if value in inputs}
        self._constant = [i for i, value in enumerate(graph.outputs) if value.constant is not None]

    @property
    def single(self) -> bool:
        """Whether the model returns a tensor as the program makes it."""
        return isinstance(self._template, Tensor) and not self._from and not self._constant

    def filled(self, made: list[Tensor], inputs: Sequence[Tensor]) -> Any:
        """The outputs of the model.

        Args:
            made: the outputs of the program.
            inputs: the call's own tensors.
        """
        for number, source in self._from.items():
            made[number] = inputs[source]
        for number in self._constant:
            made[number] = made[number].clone()
        if isinstance(self._template, Tensor):
            return made[0]
        if self._plain:
            return type(self._template)(made)
        by_id = {id(place): tensor for place, tensor in zip(self._places, made, strict=True)}
        return map_tensors(self._template, lambda place: by_id[id(place)])

    def _placed(self, tensor: Tensor) -> Tensor:
        self._places.append(torch.empty(0))
        return self._places[-1]


def _odd(value: Any) -> str | None:
    """The type of an object in which tensors could hide."""
    if isinstance(value, Tensor) or type(value) in _SIMPLE:
        return None
    if isinstance(value, (tuple, list)):
        return next(filter(None, map(_odd, value)), None)
    if isinstance(value, Mapping):
        return next(filter(None, map(_odd, value.values())), None)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = (getattr(value, one.name, None) for one in dataclasses.fields(value))
        return next(filter(None, map(_odd, fields)), None)
    return type(value).__name__
