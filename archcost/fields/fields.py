"""Fields: the receptive field of every module of a Trace, and of the network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

from archcost.errors import ArchcostError, SpecError
from archcost.fields.axes import spatial_axes
from archcost.fields.field import ReceptiveField
from archcost.fields.findings import Finding, find_all, padding_share
from archcost.fields.intervals import Intervals, union
from archcost.fields.read import InputAxes, is_map, places, read_field
from archcost.fields.registry import rule_for
from archcost.fields.replay import InputAxis, Opaque, Replay, replay
from archcost.fields.rules.creation import MAKES
from archcost.trace.graph import Trace, refs

__all__ = ["Fields"]

_MADE = {f"aten.{name.partition('.')[0]}" for name in MAKES}


class Fields:
    """Receptive fields, read off one replay of a Trace. Executes nothing.

    Raises `ArchcostError` where a floating-point output is computed from the input and its intervals
    were lost, which no rule may do.
    """

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.axes: tuple[InputAxis, ...] = spatial_axes(trace)
        self.replay: Replay = replay(trace, self.axes)
        self._known: dict[tuple[int, int], ReceptiveField] = {}
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
        found: dict[str, ReceptiveField] = {}
        for name in self._calls:
            field = self._of_module(name, None, None)
            if field is not None:
                found[name] = field
        return found

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
            known = self._calls if layer else {}
            raise SpecError(f"receptive_field: {_missing(layer, self.trace, list(known))}")
        field = self._of_module(layer, position, call, of)
        if field is None:
            raise SpecError(
                f"receptive_field: the output of {layer or 'the model'} does not depend on the spatial axes "
                f"of the input"
            )
        return field

    def select(
        self,
        layer: str | None = None,
        position: Sequence[int] | int | None = None,
        call: int | None = None,
        of: int | None = None,
    ) -> ReceptiveField:
        """`at`; without a layer, the network at its last spatial feature map, or else at its output."""
        if layer is None:
            network = self.network
            layer = "" if network is None else network.layer
        return self.at(layer, position, call, of)

    def spot(
        self, field: ReceptiveField, call: int | None = None
    ) -> tuple[tuple[int, ...], tuple[int, ...], int, int]:
        """Where a field is to be seen when the model runs.

        The dimensions of the input that are its axes, the dimensions of the output that its position
        counts along, which tensor of the module's output it is, and which call of the module.
        """
        made = self._calls[field.layer]
        call = len(made) - 1 if call is None else call
        intervals = self.intervals_of(made[call])
        assert intervals is not None  # the field was read off it
        inputs = next(i for i in self.inputs if i.tensor == field.input_index)
        output = next(i for i, x in enumerate(self.replay.calls[made[call]]) if x is intervals)
        return tuple(axis.dim for axis in inputs.axes), places(intervals, inputs), output, call

    @cached_property
    def network(self) -> ReceptiveField | None:
        """At the last spatial feature map on the way to the model's first output.

        ``layer`` is the module that gave it; None where no tensor on the way is such a map.
        """
        leads, read = self._leading
        for call in sorted(self.trace.calls, key=lambda call: (-call.end_op, -call.index)):
            known = zip(call.outputs, self.replay.calls[call.index], strict=True)
            for ref, intervals in known:
                if intervals is not None and ref.storage in read:
                    for inputs in self.inputs:
                        if is_map(intervals, inputs):
                            return self.at(call.module, of=inputs.tensor)
        for index in reversed(range(len(self.replay.ops))):
            intervals = self.replay.ops[index]
            if intervals is None or not leads[index]:
                continue
            for inputs in self.inputs:
                if is_map(intervals, inputs):
                    module = self.trace.module_of(self.trace.ops[index])
                    return read_field(self.trace, intervals, inputs, module)
        return None

    @cached_property
    def output(self) -> ReceptiveField | None:
        """At the model's first output that sees the input."""
        for _, intervals in self.replay.outputs:
            if intervals is not None:
                inputs = self._input_of(intervals, None)
                if inputs is not None:
                    return read_field(self.trace, intervals, inputs, "")
        return None

    @cached_property
    def findings(self) -> tuple[Finding, ...]:
        """What the numbers mean, in words: `archcost.fields.findings`."""
        return find_all(self)

    def padding_share(self, layer: str) -> float | None:
        """The share of a layer's windows that lies in padding, averaged over all positions."""
        for call in self._calls.get(layer, ()):
            seen = self.intervals_of(call)
            inputs = None if seen is None else self._input_of(seen, None)
            if seen is not None and inputs is not None:
                return padding_share(seen, inputs)
        return None

    @cached_property
    def _calls(self) -> dict[str, list[int]]:
        calls: dict[str, list[int]] = {}
        for call in self.trace.calls:
            calls.setdefault(call.module, []).append(call.index)
        return calls

    def intervals_of(self, call: int) -> Intervals | None:
        """The first output of a module call that is a feature map, or else that sees the input."""
        known = [x for x in self.replay.calls[call] if x is not None]
        for intervals in known:
            if any(is_map(intervals, inputs) for inputs in self.inputs):
                return intervals
        return known[0] if known else None

    def _input_of(self, intervals: Intervals, of: int | None) -> InputAxes | None:
        for inputs in self.inputs:
            if (of is None or inputs.tensor == of) and any(intervals.axes[i] for i in inputs.which):
                return inputs
        return None

    def _of_module(
        self,
        name: str,
        position: Sequence[int] | int | None,
        call: int | None,
        of: int | None = None,
    ) -> ReceptiveField | None:
        calls = self._calls[name]
        if call is not None:
            if not 0 <= call < len(calls):
                times = f"{len(calls)} time" + "s" * (len(calls) != 1)
                raise SpecError(f"receptive_field: {name or 'the model'} was called {times}; call={call}")
            calls = [calls[call]]
        seen = [x for x in map(self.intervals_of, calls) if x is not None]
        fields = []
        for intervals in seen:
            inputs = self._input_of(intervals, of)
            if inputs is not None:
                fields.append(self._read(intervals, inputs, name, position))
        if len(fields) < 2:
            return fields[0] if fields else None
        if len({x.shape for x in seen}) == 1 and len({f.input_index for f in fields}) == 1:
            whole = union(seen, seen[0].shape)
            inputs = self._input_of(seen[0], of)
            assert whole is not None  # each call sees it
            assert inputs is not None
            merged = read_field(self.trace, whole, inputs, name, position)
        else:  # maps of several sizes have no positions in common: the largest stands for all
            merged = max(fields, key=lambda f: f.size)
        return replace(merged, calls=tuple(fields))

    def _read(
        self, intervals: Intervals, inputs: InputAxes, name: str, position: Sequence[int] | int | None
    ) -> ReceptiveField:
        """`read_field`; modules that change no dependence share their Intervals, which are read once."""
        if position is not None:
            return read_field(self.trace, intervals, inputs, name, position)
        key = (id(intervals), inputs.tensor)
        if key not in self._known:
            self._known[key] = read_field(self.trace, intervals, inputs, name)
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
            if target.storage in op.writes or any(out.storage == target.storage for out in op.outputs):
                leads[op.index] = True
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
    import difflib

    if layer in trace.modules:
        return f"{layer!r} was never called"
    near = difflib.get_close_matches(layer, called, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"{trace.model_name} has no module {layer!r}{hint}"
