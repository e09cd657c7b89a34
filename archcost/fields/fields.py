"""Fields: the receptive fields of all modules of a Trace, and of the network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from archcost.errors import ArchcostError, ModelError, SpecError
from archcost.fields.field import ReceptiveField
from archcost.fields.findings import Finding, find_all, padding_share
from archcost.fields.intervals.intervals import Intervals
from archcost.fields.registry import rule_for
from archcost.fields.replay.axes import spatial_axes
from archcost.fields.replay.read import InputAxes, extent_of, is_map, places, read_field
from archcost.fields.replay.replay import InputAxis, Opaque, Replay, replay
from archcost.fields.rules.creation import MAKES
from archcost.trace.graph import Trace, refs
from archcost.trace.modules import walk

if TYPE_CHECKING:
    from torch import nn

    from archcost.fields.witness import Claim

__all__ = ["Fields"]


class _Seen(NamedTuple):
    """A module call whose output depends on an input; ``number`` is its index among the module's calls."""

    call: int
    number: int
    intervals: Intervals
    inputs: InputAxes


class _Map(NamedTuple):
    """A spatial feature map: the output of call ``number`` of a module, or of operation ``op`` in it."""

    layer: str
    intervals: Intervals
    inputs: InputAxes
    op: int | None
    number: int | None = None


# Attributes by which the fields of two feature maps are compared.
_SHAPE_OF_FIELD = ("size", "stride", "padding", "sizes", "unclipped", "position")

_MADE = {".".join(name.split(".")[:2]) for name in MAKES}


class Fields:
    """The receptive fields of a Trace, computed by a replay of its operations on intervals.

    Raises:
        ArchcostError: a rule lost the intervals of a floating-point output that depends on the input.
    """

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.axes: tuple[InputAxis, ...] = spatial_axes(trace)
        self.replay: Replay = replay(trace, self.axes)
        self._known: dict[tuple[int, ...], ReceptiveField] = {}
        self._check_kept()

    @property
    def opaque(self) -> tuple[Opaque, ...]:
        """Operations without a rule, whose outputs are assumed to depend on all of their inputs."""
        return self.replay.opaque

    @cached_property
    def inputs(self) -> tuple[InputAxes, ...]:
        """The input tensors that have spatial axes."""
        found: dict[int, list[int]] = {}
        for i, axis in enumerate(self.axes):
            found.setdefault(axis.tensor, []).append(i)
        return tuple(
            InputAxes(tensor, tuple(self.axes[i] for i in which), tuple(which))
            for tensor, which in found.items()
        )

    @cached_property
    def by_name(self) -> dict[str, ReceptiveField]:
        """The field of each module whose output depends on the input: the union of its calls."""
        each = ((name, self._of_module(name, None, None)) for name in self._calls)
        return {name: field for name, field in each if field is not None}

    def __getitem__(self, name: str) -> ReceptiveField:
        return self.at(name)

    def get(self, name: str) -> ReceptiveField | None:
        return self.by_name.get(name)

    def at(
        self,
        layer: str,
        position: Sequence[int] | int | None = None,
        call: int | None = None,
        of: int | None = None,
    ) -> ReceptiveField:
        """The receptive field of a position of a module's output.

        Args:
            layer: a name in ``named_modules()``.
            position: an index per spatial dimension of the output, negative from the end; by default the
                centre.
            call: the index of the call of a module that was called several times; by default the union of
                its calls.
            of: the index of the input tensor; by default the first on which the module depends.

        Raises:
            SpecError: there is no such module, position or call, or it does not depend on the input.
        """
        if layer not in self._calls:
            raise SpecError(f"receptive_field: {_missing(layer, self.trace, list(self._calls))}")
        known = [inputs.tensor for inputs in self.inputs]
        if of is not None and of not in known:
            raise SpecError(
                f"receptive_field: of={of!r} is not an input tensor with spatial axes; those are "
                f"{', '.join(map(str, known)) or 'none'}"
            )
        field = self._of_module(layer, position, call, of)
        if field is None:
            which = "the input" if of is None else f"input {of}"
            raise SpecError(
                f"receptive_field: the output of {layer or 'the model'} does not depend on the spatial axes "
                f"of {which}"
            )
        return field

    def select(
        self,
        layer: str | None = None,
        position: Sequence[int] | int | None = None,
        call: int | None = None,
        of: int | None = None,
    ) -> ReceptiveField:
        """The field of a position as in `at`; without ``layer``, of the last spatial feature map."""
        if layer is not None:
            return self.at(layer, position, call, of)
        last = self._last_map
        if last is None or (last.op is not None and of not in (None, last.inputs.tensor)):
            return self.at("", position, call, of)
        if last.op is not None:
            return read_field(self.trace, last.intervals, last.inputs, last.layer, position)
        call = last.number if call is None else call
        return self.at(last.layer, position, call, last.inputs.tensor if of is None else of)

    def claim(self, field: ReceptiveField, call: int | None, model: nn.Module) -> Claim:
        """The Claim that a field makes of ``model``: the calls and positions at which to verify it.

        Args:
            field: a field of this Trace.
            call: the call for which the field was requested; None for the union.
            model: the traced model.

        Raises:
            ModelError: the field's module is not registered in the model.
        """
        from archcost.fields.witness import Claim, Watched

        def claim(first: Intervals, inputs: InputAxes, watched: list[Watched], op: str | None) -> Claim:
            dims = tuple(axis.dim for axis in inputs.axes)
            return Claim(field, dims, places(first, inputs), tuple(watched), op)

        layer, last = field.layer, self._last_map
        if last is not None and last.op is not None and layer == last.layer:
            op = self.trace.ops[last.op].name
            before = sum(other.name == op for other in self.trace.ops[: last.op])
            return claim(last.intervals, last.inputs, [Watched(before, 0, last.intervals.shape)], op)
        known = {name: key for key, names in walk(model).names.items() for name in names}
        if layer not in self._calls or layer not in known:
            raise ModelError(
                f"{self.trace.model_name}: {layer} is not registered in the model, so that its field cannot "
                f"be verified; choose another layer"
            )
        call = call if field.call is None else field.call
        seen = self._standing(self._seen(layer, call, field.input_index))
        # A module with several names is called under each of them; outer calls end after inner ones.
        same = [c for c in self.trace.calls if known.get(c.module) == known[layer]]
        order = [c.index for c in sorted(same, key=lambda c: (c.end_op, -c.index))]
        watched = []
        for one in seen:
            output = next(i for i, x in enumerate(self.replay.calls[one.call]) if x is one.intervals)
            watched.append(Watched(order.index(one.call), output, one.intervals.shape))
        return claim(seen[0].intervals, seen[0].inputs, watched, None)

    @cached_property
    def network(self) -> ReceptiveField | None:
        """The field of the last spatial feature map on the way to the model's first output.

        Of a picture and words it is that of the picture: of the inputs with the most spatial axes.
        Its ``layer`` is a module, or the operation in a module's forward that computed the map. None where no
        tensor on the way is a spatial feature map.
        """
        return None if self._last_map is None else self.select()

    @cached_property
    def _last_map(self) -> _Map | None:
        """A module's output, unless a later operation (a functional pooling) has another field."""
        end, by_module = self._last_of_modules()
        by_op = self._last_of_ops(end)
        if by_module is None or by_op is None:
            return by_module or by_op
        one, other = (read_field(self.trace, m.intervals, m.inputs, "").local for m in (by_module, by_op))
        # Windows are not compared: in training, batch statistics make them global.
        changed = any(getattr(one, name) != getattr(other, name) for name in _SHAPE_OF_FIELD)
        return by_op if changed and all(other.stride) else by_module

    def _last_of_modules(self) -> tuple[int, _Map | None]:
        """The last map that a module returned, and the index of the operation after that call."""
        _, read = self._leading
        for call in sorted(self.trace.calls, key=lambda call: (-call.end_op, -call.index)):
            for ref, intervals in zip(call.outputs, self.replay.calls[call.index], strict=True):
                inputs = self._mapped(intervals) if ref.storage in read else None
                if intervals is not None and inputs is not None and len(inputs.axes) == self._most_axes:
                    number = self._calls[call.module].index(call.index)
                    return call.end_op, _Map(call.module, intervals, inputs, None, number)
        return 0, None

    def _last_of_ops(self, start: int) -> _Map | None:
        leads, _ = self._leading
        for index in reversed(range(start, len(self.replay.ops))):
            intervals = self.replay.ops[index]
            inputs = self._mapped(intervals) if leads[index] else None
            if intervals is not None and inputs is not None and len(inputs.axes) == self._most_axes:
                op = self.trace.ops[index]
                module = self.trace.module_of(op) or "the model"
                return _Map(f"{module} ({op.label})", intervals, inputs, index)
        return None

    @cached_property
    def _most_axes(self) -> int:
        """The most spatial axes of an input that has a feature map on the way to the first output."""
        leads, _ = self._leading
        maps = (
            self._mapped(one) for one, on_the_way in zip(self.replay.ops, leads, strict=True) if on_the_way
        )
        return max((len(one.axes) for one in maps if one is not None), default=0)

    def _mapped(self, intervals: Intervals | None) -> InputAxes | None:
        """The input tensor of which ``intervals`` is a spatial feature map; None if of none."""
        return next((one for one in self.inputs if intervals is not None and is_map(intervals, one)), None)

    @cached_property
    def output(self) -> ReceptiveField | None:
        """The field of the model's first output that depends on the input."""
        for _, intervals in self.replay.outputs:
            inputs = None if intervals is None else self._input_of(intervals, None)
            if intervals is not None and inputs is not None:
                return read_field(self.trace, intervals, inputs, "")
        return None

    @cached_property
    def findings(self) -> tuple[Finding, ...]:
        """Remarks on the fields, in words: `archcost.fields.findings`."""
        return find_all(self.trace, self.replay, self.inputs, self.standing)

    def padding_share(self, layer: str) -> float | None:
        """The share of a layer's windows in padding, averaged over all positions; None for no feature map."""
        seen = self._seen(layer, None, None) if layer in self._calls else []
        shares = [padding_share(one.intervals, one.inputs) for one in self._standing(seen)]
        known = [share for share in shares if share is not None]
        return sum(known) / len(known) if known else None

    @cached_property
    def _calls(self) -> dict[str, list[int]]:
        calls: dict[str, list[int]] = {}
        for call in self.trace.calls:
            calls.setdefault(call.module, []).append(call.index)
        return calls

    def intervals_of(self, call: int) -> Intervals | None:
        """Intervals of a call's first output that is a feature map, or else that depends on the input."""
        known = [x for x in self.replay.calls[call] if x is not None]
        return next((x for x in known if self._mapped(x) is not None), known[0] if known else None)

    def _input_of(self, intervals: Intervals, of: int | None) -> InputAxes | None:
        asked = (inputs for inputs in self.inputs if of in (None, inputs.tensor))
        return next((inputs for inputs in asked if any(intervals.axes[i] for i in inputs.which)), None)

    def _seen(self, name: str, call: int | None, of: int | None) -> list[_Seen]:
        """The calls of a module whose outputs depend on an input; only call number ``call`` unless None."""
        calls = self._calls[name]
        if call is not None and not 0 <= call < len(calls):
            times = f"{len(calls)} time" + "s" * (len(calls) != 1)
            raise SpecError(f"receptive_field: {name or 'the model'} was called {times}; call={call}")
        found = []
        for number, index in enumerate(calls):
            intervals = self.intervals_of(index) if call in (None, number) else None
            inputs = None if intervals is None else self._input_of(intervals, of)
            if intervals is not None and inputs is not None:
                found.append(_Seen(index, number, intervals, inputs))
        return found

    def _standing(self, seen: list[_Seen]) -> list[_Seen]:
        """The calls whose union is the module's field: of equal map size, with the largest local field."""
        alike: dict[tuple[int, ...], list[_Seen]] = {}
        for one in seen:
            at = (one.intervals, one.inputs)
            key = (one.inputs.tensor, *places(*at), *extent_of(*at))
            alike.setdefault(key, []).append(one)
        if len(alike) < 2:
            return seen

        def size(group: list[_Seen]) -> tuple[tuple[int, ...], ...]:
            field = self._united(group, "", None)
            return field.local.size, field.size

        return max(alike.values(), key=size)

    def standing(self, layer: str, of: int | None = None) -> list[int]:
        """The calls whose union is a module's field, as indices into ``trace.calls``."""
        return [one.call for one in self._standing(self._seen(layer, None, of))]

    def _of_module(
        self, name: str, position: Sequence[int] | int | None, call: int | None, of: int | None = None
    ) -> ReceptiveField | None:
        seen = self._seen(name, call, of)
        if not seen:
            return None
        standing = self._standing(seen)
        whole = self._united(standing, name, position)
        if len(self._calls[name]) < 2:
            return whole
        if len(seen) < 2:
            return replace(whole, call=seen[0].number)
        each = (self._read(one, name, position if one in standing else None) for one in seen)
        calls = tuple(replace(field, call=one.number) for field, one in zip(each, seen, strict=True))
        return replace(whole, calls=calls)

    def _united(self, seen: list[_Seen], name: str, position: Sequence[int] | int | None) -> ReceptiveField:
        if len(seen) == 1:
            return self._read(seen[0], name, position)
        return read_field(self.trace, [one.intervals for one in seen], seen[0].inputs, name, position)

    def _read(self, one: _Seen, name: str, position: Sequence[int] | int | None) -> ReceptiveField:
        """`read_field`, cached for modules that share their Spans because they change no dependence."""
        if position is not None:
            return read_field(self.trace, one.intervals, one.inputs, name, position)
        spans = (span for axis in one.inputs.which for span in one.intervals.axes[axis])
        key = (one.inputs.tensor, *map(id, spans), *extent_of(one.intervals, one.inputs))
        if key not in self._known:
            self._known[key] = read_field(self.trace, one.intervals, one.inputs, name)
        return self._known[key].named(name)

    @cached_property
    def _leading(self) -> tuple[list[bool], set[int]]:
        """Whether each operation contributes to the model's first output, and the storages then read."""
        ops = self.trace.ops
        leads = [False] * len(ops)
        target = next((ref for ref, seen in self.replay.outputs if seen is not None), None)
        if target is None:
            return leads, set()
        for op in ops:
            leads[op.index] = target.storage in (*op.writes, *(out.storage for out in op.outputs))
        for op in reversed(ops):
            if leads[op.index]:
                for source in op.fed_by:
                    leads[source] = True
        # A view is not in any `fed_by`: it contributes where its storage does.
        read = {ref.storage for op in ops if leads[op.index] for ref in op.tensors()}
        read.add(target.storage)
        for op in ops:
            if not op.writes and any(out.storage in read for out in op.outputs):
                leads[op.index] = True
        return leads, read

    def _check_kept(self) -> None:
        """Raise where a floating-point output depends on the input by data flow but has no intervals."""
        tracked = {list(refs(self.trace.inputs))[axis.tensor].storage for axis in self.axes}
        if not tracked:
            return
        # By data flow alone, without the rules.
        tainted = set(tracked)
        for op in self.trace.ops:
            reads = any(storage in tainted for storage in op.reads)
            if reads and op.base not in _MADE and rule_for(op.name) is not None and op.outputs:
                tainted.update(ref.storage for ref in op.outputs)
            elif op.writes:
                tainted.difference_update(s for s in op.writes if op.base in _MADE)
        for ref, seen in self.replay.outputs:
            lost = seen is None and ref.storage in tainted and ref.dtype.is_floating_point
            if lost and ref.numel:
                raise ArchcostError(
                    f"{self.trace.model_name}: an output of shape {ref.shape} depends on the input, but a "
                    f"dependence rule lost its receptive field; please report the model"
                )


def _missing(layer: str, trace: Trace, called: list[str]) -> str:
    if layer in trace.modules:
        return f"{layer!r} was never called"
    near = get_close_matches(str(layer), called, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"{trace.model_name} has no module {layer!r}{hint}"
