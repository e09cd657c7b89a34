"""Masks: which elements of a tensor are known to be zero, or so low that a softmax makes them zero.

A Trace holds no values, but what a forward makes from constants alone (``torch.ones(...).tril()``) has the
same ones in every run: these few operations are computed, when a product or a softmax asks for them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from archcost.trace.graph import Op, TensorRef, Trace
from archcost.trace.schema import arguments, find_overload

__all__ = ["LOW", "Masks"]

# A score this low has no weight: exp(-1e4) is zero in every precision. -inf and finfo.min are lower.
LOW = -1e4
# A mask over 4,096 x 4,096 positions; what is larger is not computed.
_MOST = 1 << 24

_Known = torch.Tensor | None
"""Of booleans, of the tensor's shape, with stride 0 where nothing varies."""

# Operations followed back from a product to its mask; a residual stream is no mask.
_DEEPEST = 40

_OVERWRITES = {"aten.fill_", "aten.zero_"}
_SAME = {"aten.clone", "aten._to_copy", "aten.contiguous", "aten.lift_fresh_copy", "aten.native_dropout"}
_SOFTMAX = {"aten._softmax", "aten._safe_softmax", "aten.softmax"}


class Masks:
    """What is known of the values of a Trace's tensors at the time of an operation.

    ``zeros`` and ``lows`` return booleans that broadcast to the tensor's shape; None where none is known.
    """

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self._writers: dict[int, list[int]] = {}
        self._made: dict[TensorRef, list[int]] = {}
        self._constant: set[int] = set()
        """The operations whose results are made from constants alone."""
        constant: dict[int, bool] = {}
        for op in trace.ops:
            for ref in op.outputs:
                self._made.setdefault(ref, []).append(op.index)
            if not op.writes:
                continue
            sources = () if op.base in _OVERWRITES else op.tensors()
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
        """Where a tensor is zero when operation ``at`` reads it."""
        return _array(self._where("zero", ref, at))

    def lows(self, ref: TensorRef, at: int) -> np.ndarray | None:
        """Where a tensor of scores is minus infinity, or nearly so."""
        return _array(self._where("low", ref, at))

    # Constants

    def _value(self, ref: Any, at: int) -> torch.Tensor | None:
        """The values of a tensor made from constants alone."""
        if not isinstance(ref, TensorRef) or ref.numel > _MOST:
            return None
        state = self._state(ref.storage, at)
        if state is None or state.dtype != ref.dtype:
            return None
        return state.as_strided(ref.shape, ref.stride, ref.offset)

    def _state(self, storage: int, at: int) -> torch.Tensor | None:
        """A storage as it was before operation ``at``, as a flat tensor."""
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
        if length > _MOST:
            return None
        own = self.trace.storages[storage].created_by != op.index
        state = self._state(storage, op.index) if own else None
        state = torch.zeros(length, dtype=target.dtype) if state is None else state.clone()
        if (
            own
            and op.base in _OVERWRITES
            and target.numel != length
            and self._state(storage, op.index) is None
        ):
            return None
        values: dict[TensorRef, torch.Tensor] = {}
        for ref in op.tensors():
            mine = own and ref.storage == storage
            value = (
                state.as_strided(ref.shape, ref.stride, ref.offset) if mine else self._value(ref, op.index)
            )
            if value is None:
                return None
            values[ref] = value
        args, kwargs = _filled(op.args, values), _filled(op.kwargs, values)
        if any(argument.name == "device" for argument in overload._schema.arguments):
            kwargs["device"] = "cpu"
        try:
            with torch.no_grad():
                result = overload(*args, **kwargs)
        except Exception:  # an operator that the CPU lacks: its values are not known
            return None
        if not own:
            result = result[op.outputs.index(target)] if isinstance(result, (tuple, list)) else result
            state.as_strided(target.shape, target.stride, target.offset).copy_(result)
        return state

    # What is computed from the input

    def _where(self, what: str, ref: Any, at: int) -> _Known:
        if not isinstance(ref, TensorRef) or not ref.shape:
            return None
        value = self._value(ref, at)
        if value is not None and not value.is_complex():
            return _any(value == 0 if what == "zero" else value <= LOW)
        made = self._made.get(ref, [])
        number = bisect_left(made, at)
        if not number:
            return None
        index = made[number - 1]
        writers = self._writers.get(ref.storage, [])
        if bisect_left(writers, at) > bisect_left(writers, index + 1):
            return None  # another view of it has been written since
        key = (what, index)
        if key not in self._known:
            op = self.trace.ops[index]
            follow = self._followed if op.reads or op.writes else self._viewed
            self._depth += 1
            found = follow(what, op) if op.outputs[0] == ref and self._depth < _DEEPEST else None
            self._depth -= 1
            self._known[key] = found
        return self._known[key]

    def _viewed(self, what: str, op: Op) -> _Known:
        """Through a view: the same operator on the booleans."""
        source = op.args[0] if op.args else None
        known = self._where(what, source, op.index)
        overload = find_overload(op.name)
        if known is None or overload is None:
            return None
        try:
            return overload(known, *op.args[1:], **op.kwargs)
        except Exception:  # strides that only the tensor itself has
            return known.reshape(op.outputs[0].shape) if "view" in op.name else None

    def _followed(self, what: str, op: Op) -> _Known:
        base, shape = op.base.rstrip("_"), op.outputs[0].shape

        def known(arg: Any, other: str = what) -> _Known:
            found = self._where(other, arg, op.index)
            return None if found is None else _narrow(found)

        parts: list[_Known] = []
        if base in _SAME or (base == "aten.div" and what == "zero"):
            parts = [known(op.args[0])]
        elif base in ("aten.add", "aten.sub") and what == "low" and not arguments(op).get("alpha", 1) < 0:
            parts = [known(arg) for arg in (op.args[:2] if base == "aten.add" else op.args[:1])]
        elif base == "aten.baddbmm" and what == "low":
            parts = [known(op.args[0])]
        elif base == "aten.mul" and what == "zero":
            parts = [known(arg) for arg in op.args[:2]]
        elif base in _SOFTMAX and what == "zero":
            low = known(op.args[0], "low")
            dim = op.args[1]
            if low is not None:
                parts = [low & ~low.all(dim, keepdim=True)]  # where all are low, none is
        elif base in ("aten.tril", "aten.triu") and what == "zero":
            square = torch.ones(shape[-2:], dtype=torch.bool)
            kept = getattr(torch, base[5:])(square, arguments(op).get("diagonal", 0))
            parts = [~kept.view((1,) * (len(shape) - 2) + kept.shape), known(op.args[0])]
        elif base in ("aten.masked_fill", "aten.where"):
            parts = [self._chosen(what, op, known)]
        return _union(parts, shape)

    def _chosen(self, what: str, op: Op, known: Callable[[Any], _Known]) -> _Known:
        """``where(mask, a, b)``, of which ``masked_fill(b, mask, a)`` is a case, with a constant mask."""
        condition, chosen, other = op.args if "where" in op.base else (op.args[1], op.args[2], op.args[0])
        mask = self._value(condition, op.index)
        if mask is None:
            return None
        mask = _narrow(mask.bool())
        parts = []
        for value, place in ((chosen, mask), (other, ~mask)):
            number = self._value(value, op.index) if isinstance(value, TensorRef) else torch.tensor(value)
            if number is not None and number.dim() == 0:
                parts.append(place if bool(number == 0 if what == "zero" else number <= LOW) else None)
            else:
                where = known(value)
                parts.append(None if where is None else where & place)
        return _union(parts, op.outputs[0].shape)


def _repeatable(op: Op) -> bool:
    """Whether it gives the same values every time."""
    overload = find_overload(op.name) if op.name.startswith("aten.") and "empty" not in op.name else None
    return overload is not None and torch.Tag.nondeterministic_seeded not in overload.tags


def _filled(value: Any, values: dict[TensorRef, torch.Tensor]) -> Any:
    if isinstance(value, TensorRef):
        return values[value]
    if isinstance(value, (tuple, list)):
        return [_filled(item, values) for item in value]
    if isinstance(value, dict):
        return {key: _filled(item, values) for key, item in value.items()}
    return value


def _narrow(known: torch.Tensor) -> torch.Tensor:
    """Size 1 where nothing varies."""
    for d, (n, stride) in enumerate(zip(known.shape, known.stride(), strict=True)):
        if stride == 0 and n > 1:
            known = known.narrow(d, 0, 1)
    return known


def _any(known: torch.Tensor) -> _Known:
    return known if bool(known.any()) else None


def _union(parts: list[_Known], shape: tuple[int, ...]) -> _Known:
    whole = None
    for part in parts:
        if part is not None:
            whole = part if whole is None else whole | part
    return None if whole is None else whole.expand(shape)


def _array(known: _Known) -> np.ndarray | None:
    return None if known is None else _narrow(known).numpy()
