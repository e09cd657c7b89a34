"""Masks: elements of a tensor that are known to be zero, or so low that a softmax makes them zero.

A Trace holds no values, but tensors that a forward makes from constants alone (``torch.ones(...).tril()``)
have the same values in every run: they are computed when the rule of a product or a softmax needs them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
import torch

from archcost.trace.graph import Argument, Op, TensorRef, Trace, refs
from archcost.trace.schema import arguments, find_overload

__all__ = ["LOW", "Masks"]

# A score this far below another score of its row has no weight: exp(-1e4) is zero in every precision.
LOW = -1e4
# The largest factor that a score may be multiplied by without becoming unknown.
_MODERATE = 1e3
# The largest mask that is computed: 4,096 x 4,096 positions.
_MOST = 1 << 24

_Known = torch.Tensor | None
"""An array of the tensor's shape, stride 0 where nothing varies: booleans, true where the tensor is zero;
or the floats that constants have added to it, NaN where unknown. None where nothing is known."""

# The most operations followed back from a product to its mask.
_DEEPEST = 40

_OVERWRITES = {"aten.fill_", "aten.zero_"}
_SAME = {"aten.clone", "aten._to_copy", "aten.contiguous", "aten.lift_fresh_copy"}
_SOFTMAX = {"aten._softmax", "aten._safe_softmax", "aten.softmax"}
_BOUNDED = {"aten.clamp", "aten.clamp_min", "aten.clamp_max", "aten.hardtanh", "aten.threshold"}
_PRODUCTS = {"aten.mm", "aten.bmm", "aten.matmul", "aten.linear", "aten.convolution", *_SOFTMAX}


class Masks:
    """The known zeros and masked scores of a Trace's tensors at the time of an operation.

    Both methods return booleans that broadcast to the tensor's shape, or None where nothing is known. Unknown
    numbers (scores, parameters, masks computed from the input) are assumed to be far smaller than a mask's.
    """

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self._writers: dict[int, list[int]] = {}
        self._made: dict[TensorRef, list[int]] = {}
        self._constant: set[int] = set()
        """Indices of the operations whose results are computed from constants alone."""
        constant: dict[int, bool] = {}
        from_input = {ref.storage for ref in refs(trace.inputs)}
        self._told = len(trace.ops)
        """Index of the first operation that returns values of the input to Python."""
        for op in trace.ops:
            for ref in op.outputs:
                self._made.setdefault(ref, []).append(op.index)
            sources = () if op.base in _OVERWRITES else tuple(op.tensors())
            if any(ref.storage in from_input for ref in sources):
                from_input.update(op.writes)
                if self._told > op.index and _tells_python(op):
                    self._told = op.index
            if not op.writes:
                continue
            alone = _repeatable(op) and all(constant.get(ref.storage, False) for ref in sources)
            if alone:
                self._constant.add(op.index)
            for storage in op.writes:
                self._writers.setdefault(storage, []).append(op.index)
                constant[storage] = alone
        self._states: dict[tuple[int, int], torch.Tensor | None] = {}
        self._known: dict[tuple[str, int], _Known] = {}
        self._depth = 0

    def zeros(self, ref: TensorRef, at: int) -> np.ndarray | None:
        """The elements of a tensor that are zero when operation ``at`` reads it."""
        return None if at > self._told else _array(self._where("zero", ref, at))

    def lows(self, ref: TensorRef, at: int, dim: int) -> np.ndarray | None:
        """The scores without weight in a softmax along ``dim``; at least one score of a row has weight."""
        return None if at > self._told else _array(_hidden(self._where("added", ref, at), dim))

    # Constants

    def _value(self, ref: Argument, at: int) -> torch.Tensor | None:
        """The values of a tensor that is computed from constants alone; else None."""
        if not isinstance(ref, TensorRef) or ref.numel > _MOST:
            return None
        state = self._state(ref.storage, at)
        return None if state is None or state.dtype != ref.dtype else _as(ref, state)

    def _state(self, storage: int, at: int) -> torch.Tensor | None:
        """The values of a storage before operation ``at``, as a flat tensor."""
        writers = self._writers.get(storage, [])
        writes = bisect_left(writers, at)
        if not writes or writers[writes - 1] not in self._constant:
            return None
        for number in range(1, writes + 1):
            key = (storage, number)
            if key not in self._states:
                self._states[key] = self._computed(self.trace.ops[writers[number - 1]], storage)
        return self._states[storage, writes]

    def _computed(self, op: Op, storage: int) -> torch.Tensor | None:
        overload = find_overload(op.name)
        target = next((ref for ref in op.outputs if ref.storage == storage), None)
        if overload is None or target is None or op.index not in self._constant:
            return None
        length = self.trace.storages[storage].nbytes // target.dtype.itemsize
        own = self.trace.storages[storage].created_by != op.index
        before = self._state(storage, op.index) if own else None
        part = own and before is None and op.base in _OVERWRITES and target.numel != length
        if length > _MOST or part:
            return None
        state = torch.zeros(length, dtype=target.dtype) if before is None else before.clone()
        values: dict[TensorRef, torch.Tensor] = {}
        for ref in op.tensors():
            mine = own and ref.storage == storage
            value = _as(ref, state) if mine else self._value(ref, op.index)
            if value is None:
                return None
            values[ref] = value
        args = [_filled(argument, values) for argument in op.args]
        kwargs = {key: _filled(argument, values) for key, argument in op.kwargs.items()}
        if any(argument.name == "device" for argument in overload._schema.arguments):
            kwargs["device"] = "cpu"
        try:
            with torch.no_grad():
                result = overload(*args, **kwargs)
        except Exception:  # an operator that the CPU lacks: its values are not known
            return None
        if not own:
            result = result[op.outputs.index(target)] if isinstance(result, (tuple, list)) else result
            _as(target, state).copy_(result)
        return state

    # Tensors computed from the input

    def _where(self, what: str, ref: Argument, at: int) -> _Known:
        if not isinstance(ref, TensorRef):
            return _said(what, torch.tensor(ref)) if isinstance(ref, (bool, int, float)) else None
        value = self._value(ref, at)
        if value is not None and not value.is_complex():
            known = _said(what, _narrow(value))
            return None if known is None else known.expand(ref.shape)
        made = self._made.get(ref, [])
        number = bisect_left(made, at)
        index = made[number - 1] if number else -1
        writers = self._writers.get(ref.storage, [])
        if bisect_left(writers, at) > bisect_left(writers, index + 1):
            return _anything(what, ref.shape)  # written since, through another view
        if index < 0:
            return None
        op = self.trace.ops[index]
        if op.outputs[0] != ref:
            return self._spread(what, op, ref.shape)
        key = (what, index)
        if key not in self._known:
            self._depth += 1
            if self._depth >= _DEEPEST:
                self._known[key] = _anything(what, ref.shape)
            elif op.reads or op.writes:
                self._known[key] = self._followed(what, op)
            else:
                self._known[key] = self._viewed(what, op)
            self._depth -= 1
        return self._known[key]

    def _viewed(self, what: str, op: Op) -> _Known:
        """The known values of a view: the same operator applied to the known values of its source."""
        source, out = op.args[0] if op.args else None, op.outputs[0]
        overload = find_overload(op.name)
        known = self._where(what, source, op.index)
        if known is None or source is None:
            return None
        # Strides and bytes are those of the tensor itself.
        if overload is not None and "as_strided" not in op.name and source.dtype == out.dtype:
            try:
                seen: torch.Tensor = overload(known, *op.args[1:], **op.kwargs).resolve_neg()
            except Exception:  # strides that only the tensor itself has
                seen = known.reshape(out.shape) if "view" in op.name else known
            if seen.shape == out.shape:
                return seen
        return self._spread(what, op, out.shape)

    def _spread(self, what: str, op: Op, shape: tuple[int, ...]) -> _Known:
        """The known values after any other operation: unknown (NaN) where its constants are large."""
        if what == "zero" or op.base in _PRODUCTS:
            return None
        if op.base.rstrip("_") in _BOUNDED and any(_is_large(value) for value in arguments(op).values()):
            return _anything(what, shape)
        for ref in op.tensors():
            if ref.dtype.is_floating_point:
                added = self._where(what, ref, op.index)
                if added is not None and not bool((_narrow(added).abs() <= _MODERATE).all()):
                    return _anything(what, shape)
        return None

    def _followed(self, what: str, op: Op) -> _Known:
        out = op.outputs[0]
        found = self._of_any(what, op)
        if found is None and what == "zero":
            found = self._zero(op)
        elif found is None and out.dtype.is_floating_point:
            found = self._added(op)
        if found is None:
            return self._spread(what, op, out.shape)
        return found.expand(out.shape) if bool(found.any()) else None

    def _of_any(self, what: str, op: Op) -> _Known:
        """The known values after operations that move numbers without changing them."""
        base, given = op.base.rstrip("_"), arguments(op)
        kept = base == "aten.native_dropout" and (given["p"] == 0 or given.get("train") is False)
        if base in _SAME or kept:
            return self._plain(what, op.args[0], op)
        if base in ("aten.fill", "aten.copy"):
            return self._plain(what, op.args[1], op)
        if base in ("aten.tril", "aten.triu"):
            square = torch.ones(op.outputs[0].shape[-2:], dtype=torch.bool)
            inside = getattr(torch, base[5:])(square, given.get("diagonal", 0))
            known = self._plain(what, op.args[0], op)
            return ~inside | known if what == "zero" else torch.where(inside, known, 0.0)
        if base in ("aten.masked_fill", "aten.where") and len(op.args) == 3:
            condition, one, other = op.args if "where" in base else (op.args[1], op.args[2], op.args[0])
            mask = self._value(condition, op.index)
            arms = self._plain(what, one, op), self._plain(what, other, op)
            if mask is not None:
                return torch.where(_narrow(mask.bool()), *arms)
            if what == "zero":
                return arms[0] & arms[1]
            most = torch.maximum(*arms)  # a value above zero would lower the others relative to it
            return torch.where((arms[0] == arms[1]) | (most <= 0), most, torch.nan)
        return None

    def _zero(self, op: Op) -> _Known:
        base = op.base.rstrip("_")
        if base in ("aten.div", "aten.native_dropout"):
            return self._plain("zero", op.args[0], op)
        if base == "aten.mul":
            return self._plain("zero", op.args[0], op) | self._plain("zero", op.args[1], op)
        if base in _SOFTMAX:
            return _hidden(self._where("added", op.args[0], op.index), op.args[1])
        return None

    def _added(self, op: Op) -> _Known:
        """The added constants after sums, and products with constants."""
        base, given = op.base.rstrip("_"), arguments(op)
        alpha = given.get("alpha", 1)
        if base in ("aten.add", "aten.sub", "aten.rsub"):
            one, other = (self._plain("added", arg, op) for arg in op.args[:2])
            if base == "aten.rsub":
                one, other = other, one
            return _sum(one, _scaled(other, alpha if base == "aten.add" else -alpha))
        if base in ("aten.baddbmm", "aten.addmm"):
            added = _scaled(self._plain("added", op.args[0], op), given.get("beta", 1))
            return _sum(added, _scaled(torch.tensor(0.0), alpha))
        if base in ("aten.mul", "aten.div") and not given.get("rounding_mode"):
            for one, other in (op.args[:2], op.args[1::-1])[: 1 if base == "aten.div" else 2]:
                factor = self._value(other, op.index) if isinstance(other, TensorRef) else other
                if factor is not None:
                    factor = _narrow(torch.as_tensor(factor)).float()
                    added = self._plain("added", one, op)
                    return _scaled(added, factor if base == "aten.mul" else 1 / factor)
        return None

    def _plain(self, what: str, ref: Argument, op: Op) -> torch.Tensor:
        """`_where` with size 1 where nothing varies, and False or 0.0 where nothing is known."""
        known = self._where(what, ref, op.index)
        return torch.tensor(False if what == "zero" else 0.0) if known is None else _narrow(known)


def _as(ref: TensorRef, state: torch.Tensor) -> torch.Tensor:
    """The view of a storage's values that ``ref`` describes."""
    return state.as_strided(ref.shape, ref.stride, ref.offset)


def _is_large(value: Argument) -> bool:
    return isinstance(value, (int, float)) and abs(value) > _MODERATE


def _said(what: str, value: torch.Tensor) -> _Known:
    known = value == 0 if what == "zero" else value.float()
    return known if bool(known.any()) else None


def _anything(what: str, shape: tuple[int, ...]) -> _Known:
    return None if what == "zero" else torch.tensor(torch.nan).expand(shape)


def _scaled(added: torch.Tensor, factor: torch.Tensor | float) -> torch.Tensor:
    factor = torch.as_tensor(factor, dtype=torch.float32)
    return added * torch.where(factor.abs() <= _MODERATE, factor, torch.nan)


def _sum(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """A sum in which minus infinity stays minus infinity, also beside NaN."""
    both = one + other
    for a, b in ((one, other), (other, one)):
        both = torch.where((a == -torch.inf) & b.isnan(), a, both)
    return both


def _hidden(added: _Known, dim: int) -> _Known:
    """The scores so far below the largest of their row that a softmax along ``dim`` makes them zero."""
    if added is None or not added.dim():
        return None
    shape, added = added.shape, _narrow(added)
    top = torch.where(added.isnan(), -torch.inf, added).amax(dim, keepdim=True)
    hidden = (added - top <= LOW) & top.isfinite()
    return hidden.expand(shape) if bool(hidden.any()) else None


def _repeatable(op: Op) -> bool:
    """Whether an operation gives the same values in every run."""
    overload = find_overload(op.name) if op.name.startswith("aten.") and "empty" not in op.name else None
    return overload is not None and torch.Tag.nondeterministic_seeded not in overload.tags


def _tells_python(op: Op) -> bool:
    """Whether an operation returns values to Python: a number, or a shape that depends on values."""
    overload = find_overload(op.name)
    telling = (torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape)
    return overload is not None and any(tag in overload.tags for tag in telling)


_Filled: TypeAlias = "torch.Tensor | Argument | Sequence[_Filled] | Mapping[str, _Filled]"


def _filled(value: Argument, values: dict[TensorRef, torch.Tensor]) -> _Filled:
    if isinstance(value, TensorRef):
        return values[value]
    if isinstance(value, (tuple, list)):
        return [_filled(item, values) for item in value]
    if isinstance(value, dict):
        return {key: _filled(item, values) for key, item in value.items()}
    return value


def _narrow(known: torch.Tensor) -> torch.Tensor:
    """The tensor with size 1 along dimensions of stride 0."""
    for d, (n, stride) in enumerate(zip(known.shape, known.stride(), strict=True)):
        if stride == 0 and n > 1:
            known = known.narrow(d, 0, 1)
    return known


def _array(known: _Known) -> np.ndarray | None:
    return None if known is None else _narrow(known).numpy()
