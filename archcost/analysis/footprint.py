"""`footprint`: flash and SRAM that a deployment would need in other dtypes, on paper: nothing is quantised.

Flash holds the parameters and buffers that the pass reads. SRAM holds the input, and each activation from the
operation that makes it to the last that reads it; an element-wise operation, a batch norm and a view write
over an input that nothing reads afterwards. An arena of these buffers takes at least that peak: how close a
runtime comes depends on where it puts them.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from itertools import accumulate
from math import ceil
from operator import add
from typing import TYPE_CHECKING

from archcost.analysis.traced import TracedModel
from archcost.cost.costs import count
from archcost.report.columns import number, words
from archcost.report.document import Asked, Column, Document, Table, ordered
from archcost.report.quantity import quantity
from archcost.report.result import Result
from archcost.report.text import visible
from archcost.report.units import bytes_text
from archcost.trace.graph import Op, TensorRef, Trace, refs
from archcost.trace.schema import arguments

if TYPE_CHECKING:
    import torch
    from torch import nn

    from archcost.analysis.analysis import Analysis
    from archcost.trace.inputs import Inputs, InputSize

__all__ = [
    "Arena",
    "Footprint",
    "LayerFootprint",
    "arena_of",
    "bits_of",
    "flash_of",
    "footprint",
    "footprint_of",
]

# Kinds of operations whose result may take the place of an input of the same number of elements.
_IN_PLACE = frozenset({"activation", "pointwise", "view", "movement", "norm"})
# Biases and scales beside integer weights are kept in 32 bits, as TensorFlow Lite and CMSIS-NN do.
_BIAS_BITS = 32
_NARROW = re.compile(r"u?int([1-7])$")


@dataclass(frozen=True)
class LayerFootprint:
    """A layer's weights in flash, and the SRAM in use while it runs."""

    name: str
    type_name: str
    flash: int
    sram: int
    flash_over: int = 0
    """The bytes of flash over the limit, on the layer with most of it; 0 on others."""
    sram_over: int = 0
    """The bytes over the limit on SRAM while it runs."""


@dataclass(frozen=True)
class Footprint(Result):
    """Flash and SRAM on paper, as `archcost.footprint` returns them."""

    name: str
    input_text: str
    weights: str
    activations: str
    flash: int
    sram: int
    sram_at: str
    """The operation at the peak, and its module."""
    layers: tuple[LayerFootprint, ...]
    flash_limit: int | None = None
    sram_limit: int | None = None

    @property
    def fits(self) -> bool:
        """Whether both limits are kept; True without limits."""
        flash_fits = self.flash_limit is None or self.flash <= self.flash_limit
        return flash_fits and (self.sram_limit is None or self.sram <= self.sram_limit)

    @property
    def breaking(self) -> tuple[LayerFootprint, ...]:
        """The layers that need more SRAM than the limit, and the largest ones where flash is too small."""
        return tuple(one for one in self.layers if one.sram_over or one.flash_over)

    def document(self, asked: Asked) -> Document:
        """The contents to show; the JSON has the attributes by their names."""
        asked.without_depth("a footprint")
        rows = self.breaking or self.layers
        shown = partial(ordered, rows, _COLUMNS, asked, "sram")
        every = partial(ordered, self.layers, _COLUMNS, asked, "sram")
        title = ("Layers that break a limit", "") if self.breaking else None
        return Document(
            "archcost.footprint/1",
            [(visible(self.name), f"input {visible(self.input_text)}")],
            [Table("layers", _COLUMNS, every)],
            [Table("layers", _COLUMNS, shown, title=title)],
            lambda: {**asdict(self), "fits": self.fits},
            lines=[*self.sentences()],
            notes=lambda grids: [("Assumed", _ASSUMED)],
        )

    def sentences(self) -> Iterator[str]:
        """The answer, then how far each limit is kept."""
        what = f"With {self.weights} weights and {self.activations} activations"
        yield (
            f"{what} {visible(self.name)} takes {bytes_text(self.flash)} of flash and "
            f"{bytes_text(self.sram)} of SRAM, at {visible(self.sram_at)}."
        )
        for kind, used, limit in (
            ("flash", self.flash, self.flash_limit),
            ("SRAM", self.sram, self.sram_limit),
        ):
            if limit is not None:
                off = bytes_text(abs(used - limit)) or "0"
                said = f"{off} too much for" if used > limit else f"fits, with {off} left of"
                yield f"{kind}: {said} {bytes_text(limit)}."


_ASSUMED = (
    "nothing is quantised: bytes are counted as if; element-wise operations, batch norms and views write in "
    "place where their input is not read again; what only training needs is left out; 1 kB is 1000 bytes"
)
_COLUMNS: tuple[Column[LayerFootprint], ...] = (
    words("name", "Layer", "The module", lambda row: row.name or "(the model)", keep=9),
    words("type", "Type", "Its class", lambda row: row.type_name, keep=4),
    number("flash", "Flash", "Bytes of its weights", bytes_text, dtype="int64", keep=6),
    number("sram", "SRAM", "Bytes of activations alive while it runs", bytes_text, dtype="int64", keep=8),
    number("sram_over", "SRAM over", "Bytes over the limit", bytes_text, dtype="int64", keep=7),
    number("flash_over", "Flash over", "Bytes over the limit", bytes_text, dtype="int64", keep=5),
)


def bits_of(dtype: str) -> int:
    """The bits of an element: 4 for ``int4``, whose ``torch.int4`` takes a byte.

    Raises:
        InputError: torch knows no such dtype.
    """
    from archcost.trace.inputs import as_dtype

    found = as_dtype(dtype)
    narrow = _NARROW.search(str(found))
    return int(narrow[1]) if narrow else 8 * found.itemsize


def footprint(
    model: nn.Module | str | Analysis,
    inputs: Inputs = None,
    *,
    input_size: InputSize | None = None,
    weights: str = "int8",
    activations: str = "int8",
    flash: str | int | None = None,
    sram: str | int | None = None,
    depthwise_in_place: bool = False,
) -> Footprint:
    """The flash and SRAM that a deployment needs in other dtypes, on paper; nothing is quantised.

    Args:
        model: a module in eval mode, a SPEC or an Analysis.
        inputs: as in `archcost.analyze`.
        input_size: as in `archcost.analyze`.
        weights: the dtype of weights: ``int8``, ``int4``, ``float16``.
        activations: the dtype of activations and of the input.
        flash: a limit on the weights, such as ``"1 MB"``.
        sram: a limit on the activations, such as ``"320 KB"``.
        depthwise_in_place: whether a depthwise convolution writes over its input, channel by channel, as
            TinyEngine does (Lin et al. 2020, MCUNet).

    Returns:
        Both numbers, the layers, and those that break a limit.

    Raises:
        InputError: a dtype that torch does not know, or a limit that cannot be read.
    """
    from archcost.analysis.analysis import analysis_of

    analysis = analysis_of("footprint", model, inputs, input_size=input_size)
    limits = [
        None if value is None else int(quantity(value, "bytes", what=f"footprint: {name}"))
        for name, value in {"flash": flash, "sram": sram}.items()
    ]
    return footprint_of(analysis, weights, activations, limits[0], limits[1], depthwise_in_place)


def footprint_of(
    analysis: TracedModel,
    weights: str | None,
    activations: str | None,
    flash: int | None = None,
    sram: int | None = None,
    depthwise_in_place: bool = False,
) -> Footprint:
    """`footprint` of an Analysis; a dtype of None is the tensor's own."""
    trace = analysis.trace
    by_layer = _flash(trace, weights)
    live = arena_of(trace, activations, depthwise_in_place).live
    alive: dict[str, int] = defaultdict(int)
    for op in trace.ops:
        name = trace.module_of(op)
        alive[name] = max(alive[name], live[op.index])
    total = sum(by_layer.values())
    flash_over = max(0, total - flash) if flash is not None else 0
    heaviest = max(by_layer, key=lambda name: by_layer[name], default="")
    types = {row.name: row.type_name for row in analysis.modules}
    layers = [
        LayerFootprint(
            name,
            types.get(name, ""),
            by_layer.get(name, 0),
            alive.get(name, 0),
            flash_over if name == heaviest else 0,
            max(0, alive.get(name, 0) - sram) if sram is not None else 0,
        )
        for name in dict.fromkeys((*alive, *by_layer))
    ]
    peak = max(range(len(live)), key=lambda at: live[at], default=None)
    at = "no operation"
    if peak is not None:
        at = f"{trace.ops[peak].label} in {trace.module_of(trace.ops[peak]) or 'the model'}"
    return Footprint(
        name=analysis.name,
        input_text=analysis.input_text,
        weights=weights or "their own",
        activations=activations or "their own",
        flash=total,
        sram=max(live, default=0),
        sram_at=at,
        layers=tuple(layers),
        flash_limit=flash,
        sram_limit=sram,
    )


def _flash(trace: Trace, dtype: str | None) -> dict[str, int]:
    """Bytes of the weights that the pass reads, by the module that owns them."""
    owners = {state.name: state for state in trace.state}
    seen: dict[int, TensorRef] = {}
    for op in trace.ops:
        for ref in op.tensors():
            seen.setdefault(ref.storage, ref)
    found: dict[str, int] = defaultdict(int)
    for storage in trace.storages:
        state = owners.get(storage.name or "") if storage.origin in ("parameter", "buffer") else None
        if state is not None and storage.index in seen:
            found[state.owner] += flash_of(state.numel, len(state.shape), seen[storage.index].dtype, dtype)
    return dict(found)


def flash_of(numel: int, axes: int, own: torch.dtype, dtype: str | None) -> int:
    """Bytes of a weight in a dtype, None for its own; beside integer weights a bias stays in 32 bits."""
    if dtype is None or not own.is_floating_point:
        return numel * own.itemsize
    bits = bits_of(dtype)
    if "int" in dtype and axes <= 1:
        bits = max(bits, _BIAS_BITS)
    return ceil(numel * bits / 8)


@dataclass(frozen=True)
class Arena:
    """Buffers of activations, used again in place; operations and storages by their indices."""

    live: list[int]
    """Bytes alive during each operation."""
    sizes: dict[int, int]
    until: dict[int, int]
    """The last operation during which a buffer is in use."""
    held_by: dict[int, int]
    """The storage whose buffer a storage took over."""

    def buffer(self, storage: int) -> int:
        """The storage that the buffer of a storage was made for."""
        while storage in self.held_by:
            storage = self.held_by[storage]
        return storage


def arena_of(trace: Trace, dtype: str | None, depthwise: bool = False) -> Arena:
    """The buffers of a pass in a dtype of activations, None for their own."""
    bits = None if dtype is None else bits_of(dtype)
    last: dict[int, int] = {}
    kinds: dict[int, TensorRef] = {}
    for op in trace.ops:
        for ref in (*op.tensors(), *op.outputs):
            kinds.setdefault(ref.storage, ref)
        for ref in op.tensors():
            last[ref.storage] = op.index
    end = len(trace.ops) - 1
    for ref in refs(trace.outputs):
        last[ref.storage] = end
    counted = {
        one.index: _scaled(one.nbytes, kinds[one.index], bits)
        for one in trace.storages
        if one.origin in ("input", "operation") and one.index in last and one.index in kinds
    }
    changes = [0] * (end + 2)
    extra = [0] * (end + 1)
    found = Arena([], counted, dict(last), {})
    for op in trace.ops:
        for made in op.writes:
            if made not in counted or trace.storages[made].created_by != op.index:
                continue
            over = _overwritable(op, made, found, depthwise)
            if over is None:
                continue
            found.held_by[made] = over
            found.until[over] = max(found.until[over], last[made])
            if depthwise and count(op).kind == "convolution":
                extra[op.index] = counted[made] // max(1, op.outputs[0].shape[1])
    for index, size in counted.items():
        if index in found.held_by:
            continue
        born = trace.storages[index].created_by
        changes[born or 0] += size
        changes[found.until[index] + 1] -= size
    found.live.extend(map(add, accumulate(changes[: end + 1]), extra))
    return found


def _overwritable(op: Op, made: int, arena: Arena, depthwise: bool) -> int | None:
    """The buffer that a new result may be written over; None where there is none."""
    kind = count(op).kind
    if kind == "convolution":
        named = arguments(op)
        if not depthwise or named.get("groups") != op.args[0].shape[1] or named.get("groups") == 1:
            return None
    elif kind not in _IN_PLACE:
        return None
    sizes = arena.sizes
    for read in op.reads if kind != "convolution" else op.args[0:1]:
        storage = read.storage if isinstance(read, TensorRef) else read
        buffer = arena.buffer(storage)
        fits = buffer in sizes and sizes[buffer] >= sizes[made]
        if fits and arena.until[buffer] == op.index and sizes.get(storage, 0) >= sizes[made]:
            return buffer
    return None


def _scaled(nbytes: int, ref: TensorRef, bits: int | None) -> int:
    if bits is None or not ref.dtype.is_floating_point:
        return nbytes
    return ceil(nbytes // ref.dtype.itemsize * bits / 8)
