"""Flash and SRAM in a budget: what layers and their candidates take on paper, and what no rewrite can lower.

Flash adds up over layers. SRAM does not: it is the most that is alive during an operation. But a candidate
changes only what is alive while its own layer runs, so that each one keeps the limit or breaks it by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from math import ceil, prod
from typing import Any

from archcost.analysis.budget import Budget
from archcost.analysis.footprint import arena_of, bits_of, flash_of, footprint_of
from archcost.cost.costs import count
from archcost.errors import RewriteError
from archcost.merging.chain import Chain, resized, specs_of
from archcost.optimizing.candidates import Candidate, replacement_of
from archcost.optimizing.layers import Layer
from archcost.optimizing.optimized import Optimized
from archcost.optimizing.planning import Planned
from archcost.optimizing.stages import Task
from archcost.report.text import visible
from archcost.report.units import bytes_text
from archcost.rewriting.replacement import Replacement
from archcost.spec import ConvSpec
from archcost.trace.graph import Op

__all__ = ["Deployed"]

_NAMED = 3
"""Layers that an error names."""


@dataclass(frozen=True)
class _Place:
    """A call of a layer: bytes of its input, of its output, and of all else that is alive meanwhile."""

    spec: ConvSpec
    before: int
    after: int
    others: int
    read_again: bool
    """Whether the input outlives the call."""
    bits: int

    def peak(self, between: Sequence[int]) -> int:
        """The most bytes alive with some tensors between input and output."""
        sizes = [self.before, *between, self.after]
        kept = [0, *[self.before * self.read_again] * len(between)]
        return self.others + max(a + b + c for (a, b), c in zip(pairwise(sizes), kept, strict=True))

    def with_chain(self, chain: Chain) -> int:
        """The most bytes alive while a chain runs in the layer's place."""
        *specs, _ = specs_of(resized(chain, self.spec.input_size, self.spec.batch))
        sizes = [one.batch * one.out_channels * prod(one.output_size) for one in specs]
        return self.peak([ceil(size * self.bits / 8) for size in sizes])


@dataclass(eq=False)
class Deployed:
    """A budget on flash, SRAM or both, read against a model."""

    task: Task
    budget: Budget
    live: list[int] = field(init=False)
    """Bytes of activations alive during each operation."""
    places: Mapping[str, tuple[_Place, ...]] = field(init=False)
    """The calls of each layer that may be exchanged."""
    ops: Mapping[int, str] = field(init=False)
    """The layer of each of these calls, by the operation's index."""
    sram: float = field(init=False)
    """The limit in bytes."""

    def __post_init__(self) -> None:
        """Read the model.

        Raises:
            RewriteError: no rewrite can keep the limit on SRAM.
        """
        trace, dtype = self.task.analysis.trace, self.budget.activations_dtype
        arena = arena_of(trace, dtype)
        self.live = arena.live
        limit = float("inf") if self.budget.sram is None else float(self.budget.sram)
        if limit <= 1:
            limit *= max(arena_of(self.task.given.trace, dtype).live, default=0)
        self.sram = limit
        places: dict[str, tuple[_Place, ...]] = {}
        ops: dict[int, str] = {}
        for layer in self.task.open:
            found = []
            for op, spec in zip(self._calls(layer), layer.specs, strict=True):
                given = next((ref for ref in op.tensors() if ref.storage in arena.sizes), None)
                buffer = -1 if given is None else arena.buffer(given.storage)
                before = arena.sizes.get(buffer, 0)
                after = arena.sizes.get(op.outputs[0].storage, 0)
                others = self.live[op.index] - before - after
                again = arena.until.get(buffer, -1) > op.index
                own = 8 * op.outputs[0].dtype.itemsize
                bits = own if dtype is None else bits_of(dtype)
                found.append(_Place(spec, before, after, others, again, bits))
                ops[op.index] = layer.name
            places[layer.name] = tuple(found)
        self.places, self.ops = places, ops
        # Two layers with a tensor of no size between them need least.
        self._refuse({name: max(one.peak((0,)) for one in calls) for name, calls in places.items()})

    def _calls(self, layer: Layer) -> Iterator[Op]:
        if layer.subject is not None:
            yield from layer.subject.ops
            return
        trace = self.task.analysis.trace
        for op in trace.ops:
            if trace.module_of(op) in layer.names and count(op).macs:
                yield op

    def _refuse(self, least: Mapping[str, int]) -> None:
        """Raise where SRAM is above the limit, given the least of each layer that may be exchanged."""
        trace, over = self.task.analysis.trace, dict[str, float]()
        for op, alive in zip(trace.ops, self.live, strict=True):
            layer = self.ops.get(op.index)
            reached = alive if layer is None else min(alive, least.get(layer, alive))
            if reached > self.sram:
                name = trace.module_of(op)
                over[name] = max(over.get(name, 0.0), reached - self.sram)
        if not over:
            return
        worst = sorted(over, key=lambda name: -over[name])
        named = "; ".join(
            f"{visible(name) or 'the model itself'}, {bytes_text(round(over[name]))} above the limit"
            for name in worst[:_NAMED]
        )
        more = f" and {len(worst) - _NAMED} more" * (len(worst) > _NAMED)
        limit = round(self.sram)
        dtype = self.budget.activations_dtype
        narrow = dtype is not None and bits_of(dtype) <= 8
        mend = "a smaller input" + ", or activations_dtype='int8'" * (not narrow)
        raise RewriteError(
            f"the budget cannot be kept: sram={bytes_text(limit)}; the least reachable is "
            f"{bytes_text(round(over[worst[0]]) + limit)}; no rewrite lowers enough what is alive in {named}"
            f"{more}: give {mend}, or a larger budget"
        )

    def limited(self, planned: Planned) -> Planned:
        """The candidates that keep the limit on SRAM, with their flash; the layers get theirs.

        Raises:
            RewriteError: a layer breaks the limit, and so does every candidate.
        """
        task, budget = self.task, self.budget
        found = footprint_of(task.analysis, budget.weights_dtype, budget.activations_dtype)
        by_name = {one.name: one.flash for one in found.layers}
        candidates: dict[str, list[Candidate]] = {}
        least: dict[str, int] = {}
        layers = []
        for layer in task.layers:
            own = max((one.peak(()) for one in self.places.get(layer.name, ())), default=0)
            peaks = [own]
            kept = candidates[layer.name] = []
            for one in planned.candidates.get(layer.name, ()):
                if one.others:  # its peaks are several
                    continue
                new = replacement_of(layer, one.rule, one.options)
                peaks.append(max(place.with_chain(new.chain) for place in self.places[layer.name]))
                if peaks[-1] <= self.sram:
                    kept.append(replace(one, flash=self._flash(layer, new)))
            least[layer.name] = min(peaks)
            flash = max(by_name.get(name, 0) for name in layer.names)
            layers.append(replace(layer, flash=flash, must_change=own > self.sram))
        self._refuse(least)
        task.folded = replace(task.folded, layers=tuple(layers))
        given = footprint_of(task.given, budget.weights_dtype, budget.activations_dtype)
        return replace(
            planned,
            totals={**planned.totals, "flash": float(found.flash)},
            given={**planned.given, "flash": float(given.flash)},
            candidates=candidates,
        )

    def _flash(self, layer: Layer, new: Replacement) -> int:
        own = next(layer.module.parameters()).dtype
        total = 0
        *_, last = new.convs
        for conv in new.convs:
            # The bias that a folded norm left is its own again in the end.
            undone = conv is last and not self.task.folded.old[layer.name].spec.bias
            bias = conv.spec.out_channels * (conv.spec.bias and not undone)
            total += flash_of(conv.spec.params - bias, 2, own, self.budget.weights_dtype)
            total += flash_of(bias, 1, own, self.budget.weights_dtype)
        return total

    def told(self, found: Optimized) -> Optimized:
        """The result with both footprints, counted again on the new model."""
        budget = self.budget
        dtypes = budget.weights_dtype, budget.activations_dtype
        before, after = (footprint_of(one, *dtypes) for one in (found.before, found.after))
        asked, reached = dict(found.asked), dict(found.reached)
        limits: dict[str, Any] = {}
        for name, limit in (("flash", asked.get("flash", 1.0) * before.flash), ("sram", self.sram)):
            whole = getattr(before, name)
            if getattr(budget, name) is not None and whole:
                limits[f"{name}_limit"] = round(limit)
                asked[name], reached[name] = limit / whole, getattr(after, name) / whole
        after = replace(after, **limits)
        return replace(found, asked=asked, reached=reached, footprints=(before, after))
