"""Fields: the receptive field of every module of a Trace, and of the network."""

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
    """One call of a module whose output sees an input; ``number`` counts the calls of the module."""

    call: int
    number: int
    intervals: Intervals
    inputs: InputAxes


class _Map(NamedTuple):
    """A spatial feature map: what call ``number`` of a module gave, or operation ``op`` in its forward."""

    layer: str
    intervals: Intervals
    inputs: InputAxes
    op: int | None
    number: int | None = None


# What a field says of a map, whatever the map's positions are.
_SHAPE_OF_FIELD = ("size", "stride", "padding", "sizes", "unclipped", "position")

_MADE = {".".join(name.split(".")[:2]) for name in MAKES}


class Fields:
    """Receptive fields, read off one replay of a Trace. Executes nothing.

    Raises `ArchcostError` where a floating-point output is computed from the input and its intervals
    were lost, which no rule may do.
    """

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.axes: tuple[InputAxis, ...] = spatial_axes(trace)
        self.replay: Replay = replay(trace, self.axes)
        self._known: dict[tuple[int, ...], ReceptiveField] = {}
        self._check_kept()

    @property
    def opaque(self) -> tuple[Opaque, ...]:
        """Operations without a rule; their outputs are taken to see all that their inputs see."""
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
        """For every module that sees the input; called several times, the union of its calls."""
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
        """The field of one position of a module's output, by default of its centre.

        Args:
            layer: a name in ``named_modules()``.
            position: one index for each spatial dimension of the output; negative ones count from the end.
            call: which call of the module, where it was called several times; by default their union.
            of: which of the input tensors; by default the first that it sees.

        Raises:
            SpecError: there is no such module, position or call, or it does not see the input.
        """
        if layer not in self._calls:
            raise SpecError(f"receptive_field: {_missing(layer, self.trace, list(self._calls))}")
        known = [inputs.tensor for inputs in self.inputs]
        if of is not None and of not in known:
            raise SpecError(
                f"receptive_field: of={of!r} is no input tensor with spatial axes; there are "
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
        """`at`; without a layer, the call that gave the network's last spatial feature map, or its output."""
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
        """Where a field, with the ``call`` that it was asked for, is to be seen when ``model`` runs.

        Raises:
            ModelError: the model has no such module registered.
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
                f"{self.trace.model_name}: {layer} is not registered in the model and cannot be watched from "
                f"outside, so its field cannot be verified; choose another layer"
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
        """At the last spatial feature map on the way to the model's first output.

        ``layer`` is the module that gave it, or names the operation in a module's forward that did; None
        where no tensor on the way is such a map.
        """
        return None if self._last_map is None else self.select()

    @cached_property
    def _last_map(self) -> _Map | None:
        """A module's, unless a forward goes on and changes what is seen, as functional poolings do."""
        end, by_module = self._last_of_modules()
        by_op = self._last_of_ops(end)
        if by_module is None or by_op is None:
            return by_module or by_op
        one, other = (read_field(self.trace, m.intervals, m.inputs, "").local for m in (by_module, by_op))
        # Not by the windows, which the statistics of batch norms decide in training.
        changed = any(getattr(one, name) != getattr(other, name) for name in _SHAPE_OF_FIELD)
        return by_op if changed and all(other.stride) else by_module

    def _last_of_modules(self) -> tuple[int, _Map | None]:
        """With the operation before which the module's call ended."""
        _, read = self._leading
        for call in sorted(self.trace.calls, key=lambda call: (-call.end_op, -call.index)):
            for ref, intervals in zip(call.outputs, self.replay.calls[call.index], strict=True):
                inputs = self._mapped(intervals) if ref.storage in read else None
                if intervals is not None and inputs is not None:
                    number = self._calls[call.module].index(call.index)
                    return call.end_op, _Map(call.module, intervals, inputs, None, number)
        return 0, None

    def _last_of_ops(self, start: int) -> _Map | None:
        leads, _ = self._leading
        for index in reversed(range(start, len(self.replay.ops))):
            intervals = self.replay.ops[index]
            inputs = self._mapped(intervals) if leads[index] else None
            if intervals is not None and inputs is not None:
                op = self.trace.ops[index]
                module = self.trace.module_of(op) or "the model"
                return _Map(f"{module} ({op.label})", intervals, inputs, index)
        return None

    def _mapped(self, intervals: Intervals | None) -> InputAxes | None:
        """The input of which a tensor is a feature map."""
        return next((one for one in self.inputs if intervals is not None and is_map(intervals, one)), None)

    @cached_property
    def output(self) -> ReceptiveField | None:
        """At the model's first output that sees the input."""
        for _, intervals in self.replay.outputs:
            inputs = None if intervals is None else self._input_of(intervals, None)
            if intervals is not None and inputs is not None:
                return read_field(self.trace, intervals, inputs, "")
        return None

    @cached_property
    def findings(self) -> tuple[Finding, ...]:
        """What the numbers mean, in words: `archcost.fields.findings`."""
        return find_all(self.trace, self.replay, self.inputs, self.standing)

    def padding_share(self, layer: str) -> float | None:
        """The share of a layer's windows that lies in padding, averaged over all positions."""
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
        """The first output of a module call that is a feature map, or else that sees the input."""
        known = [x for x in self.replay.calls[call] if x is not None]
        return next((x for x in known if self._mapped(x) is not None), known[0] if known else None)

    def _input_of(self, intervals: Intervals, of: int | None) -> InputAxes | None:
        asked = (inputs for inputs in self.inputs if of in (None, inputs.tensor))
        return next((inputs for inputs in asked if any(intervals.axes[i] for i in inputs.which)), None)

    def _seen(self, name: str, call: int | None, of: int | None) -> list[_Seen]:
        """The calls of a module, or one of them, whose outputs see the input."""
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
        """Calls of a module that stand for it: they have positions in common, and their union is
        the largest, operations over the full extent taken as constants.
        """
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
        """The calls whose union stands for a module, each an index into ``trace.calls``."""
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
        """`read_field`; modules that change no dependence share their Spans, which are read once."""
        if position is not None:
            return read_field(self.trace, one.intervals, one.inputs, name, position)
        spans = (span for axis in one.inputs.which for span in one.intervals.axes[axis])
        key = (one.inputs.tensor, *map(id, spans), *extent_of(one.intervals, one.inputs))
        if key not in self._known:
            self._known[key] = read_field(self.trace, one.intervals, one.inputs, name)
        return self._known[key].named(name)

    @cached_property
    def _leading(self) -> tuple[list[bool], set[int]]:
        """The operations that the model's first output is computed from, and the storages they read."""
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
        # Views are nobody's source: they lead where what they show leads.
        read = {ref.storage for op in ops if leads[op.index] for ref in op.tensors()}
        read.add(target.storage)
        for op in ops:
            if not op.writes and any(out.storage in read for out in op.outputs):
                leads[op.index] = True
        return leads, read

    def _check_kept(self) -> None:
        """Nothing computed from the input in floating point may come out without intervals."""
        tracked = {list(refs(self.trace.inputs))[axis.tensor].storage for axis in self.axes}
        if not tracked:
            return
        # An account of its own, by data flow alone: rules have no say in it.
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
                    f"{self.trace.model_name}: an output of shape {ref.shape} is computed from the input, "
                    f"and its receptive field was lost on the way; please report the model"
                )


def _missing(layer: str, trace: Trace, called: list[str]) -> str:
    if layer in trace.modules:
        return f"{layer!r} was never called"
    near = get_close_matches(str(layer), called, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"{trace.model_name} has no module {layer!r}{hint}"
