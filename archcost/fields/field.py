"""ReceptiveField: the part of the input that a position of a layer depends on, per spatial axis."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from archcost.report.document import Asked, Column, Document, Table, ordered
from archcost.report.result import Result
from archcost.report.values import Cell, Json

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from archcost.report.columns import Look

__all__ = ["ReceptiveField"]

Window = tuple[int, int]
"""First and last pixel; (0, -1) is empty."""


@dataclass(frozen=True, kw_only=True)
class ReceptiveField(Result):
    """Receptive field of a layer: size, stride and padding per spatial axis (Araujo et al., Distill 2019).

    In pixels of the input: a position sees ``size`` pixels, the next position those ``stride`` pixels
    further, and the field of position 0 begins ``padding`` pixels before the input. Where an operation over
    the full extent of an axis (global pooling, a gate, attention) makes it global, ``size`` is the whole
    input, stride and padding are 0, and ``local`` is the field with such operations taken as constants.
    Sizes do not depend on the size of the input, except where they are global, causal (recurrent layers,
    masks), or an operation's windows depend on it (adaptive pooling).
    """

    layer: str
    """The name of the module whose output has this field; empty for the model itself."""
    size: tuple[int, ...]
    """Number of pixels that a position sees, per axis."""
    stride: tuple[float, ...]
    """Distance in pixels between the fields of neighbouring positions, per axis."""
    padding: tuple[float, ...]
    """Number of pixels by which the field of position 0 begins before the input, per axis."""
    position: tuple[int, ...]
    """The output position of ``window`` and ``unclipped``; by default the centre."""
    window: tuple[Window, ...]
    """First and last pixel within the input that ``position`` sees, per axis."""
    unclipped: tuple[Window, ...]
    """First and last pixel that ``position`` sees, with the input continued beyond its borders."""
    sizes: tuple[tuple[int, ...], ...]
    """All sizes that occur, per axis: several where they differ by phase, as after upsampling."""
    because: tuple[str | None, ...]
    """The module and operation that made an axis global, in words, per axis; None where it is not global."""
    input_size: tuple[int, ...]
    """The size of the input, per axis."""
    input_index: int = 0
    """The index of the input tensor that the field lies in."""
    input_name: str | None = None
    """The name of the input tensor in reports, ``input 1 (image)``; None for a single input."""
    calls: tuple[ReceptiveField, ...] = field(default=(), repr=False)
    """The field of each call of a module that was called several times; this field is their union."""
    call: int | None = None
    """The index of the call; None for the union of calls, and for a module called once."""
    _local: ReceptiveField | None = field(default=None, repr=False)

    @property
    def local(self) -> ReceptiveField:
        """The field with operations over the full extent as constants; size 0 if nothing else is seen."""
        return self if self._local is None else self._local

    @property
    def is_global(self) -> bool:
        """Whether an operation over the full extent made any axis global."""
        return any(why is not None for why in self.because)

    @property
    def reason(self) -> str | None:
        """The operations that made the field global, in words; None where it is not global."""
        whys = list(dict.fromkeys(why for why in self.because if why is not None))
        return ", ".join(whys) or None

    @property
    def differs_by_phase(self) -> bool:
        """Whether neighbouring positions have fields of different sizes, as after upsampling."""
        return any(len(sizes) > 1 for sizes in self.sizes)

    def named(self, layer: str) -> ReceptiveField:
        """The same field under the name of another layer."""
        if layer == self.layer:
            return self
        renamed = copy(self)
        object.__setattr__(renamed, "layer", layer)
        if self._local is not None:
            object.__setattr__(renamed, "_local", self._local.named(layer))
        return renamed

    def size_text(self) -> str:
        """The size in words: ``427``, ``9x1``, ``675-691`` by phase, ``all (851)`` where global."""
        if not self.is_global:
            return _sizes_text(self.sizes)
        inner = _sizes_text(self.local.sizes) if any(self.local.size) else ""
        return f"all ({inner})" if inner else "all"

    def document(self, asked: Asked) -> Document:
        """The field as a Document: a row per axis; JSON has the attributes of this class."""
        asked.without_depth("a receptive field")
        rows = ordered([(self, axis) for axis in range(len(self.size))], _COLUMNS, asked, "size")
        axes = Table("axes", _COLUMNS, lambda: rows)
        first, *lines = self.lines()
        shown = [axes] if asked.columns is not None else []
        return Document("archcost.field/1", [(first, "")], [axes], shown, self.record, lines)

    def record(self) -> dict[str, Json]:
        """The field as a dict of plain values, by attribute name."""
        record = {name: getattr(self, name) for name in _RECORDED}
        local = self.local.record() if self.is_global else None
        return {**record, "input": self.input_index, "local": local}

    def lines(self) -> list[str]:
        """The field in words: layer and position, global operations, size, window."""
        of = f", of {self.input_name}" if self.input_name else ""
        lines = [f"{self.layer or 'the model'}, position {', '.join(map(str, self.position))}{of}"]
        shown = self.local
        if self.is_global:
            whole = self.input_size
            if None in self.because:  # along some axes only
                wide = [i for i, why in enumerate(self.because) if why is not None]
                axes = " and ".join(map(str, wide))
                text = f"sees all of axis {axes}, {_each(tuple(whole[i] for i in wide))}, "
            else:
                text = f"sees the whole input, {_each(whole)}, "
            lines.append(f"{text}because of {self.reason}")
            lines.append("with that taken as a constant:" if any(shown.size) else "and nothing else")
        if any(shown.size):
            by_phase = " by phase" if shown.differs_by_phase else ""
            lines.append(
                f"size {_sizes_text(shown.sizes, ' or ')}{by_phase}, stride {_each(shown.stride)}, "
                f"padding {_each(shown.padding)}"
            )
        lines.append(f"window {_windows(self.window)}, unclipped {_windows(self.unclipped)}")
        return lines


def _each(values: tuple[float, ...]) -> str:
    texts = [f"{v:g}" for v in values]
    return texts[0] if len(set(texts)) == 1 else "x".join(texts)


def _sizes_text(sizes: tuple[tuple[int, ...], ...], between: str = "-") -> str:
    texts = []
    for s in sizes:
        ends = sorted(set(s))
        if len(ends) > 2:
            texts.append(f"{ends[0]}-{ends[-1]}")
        else:
            texts.append(between.join(map(str, ends)))
    return texts[0] if len(set(texts)) == 1 else "x".join(texts)


def _windows(windows: tuple[Window, ...]) -> str:
    return " x ".join("none" if lo > hi else f"[{lo}, {hi}]" for lo, hi in windows)


_Row = tuple[ReceptiveField, int]
"""A field and an axis."""
_RECORDED = ("layer", "size", "stride", "padding", "sizes", "position", "window", "unclipped", "because")


def _column(
    name: str, header: str, meaning: str, of: str, at: int | None = None, **look: Unpack[Look]
) -> Column[_Row]:
    """A column with the values of the attribute ``of`` per axis, or entry ``at`` of its pairs."""

    def get(row: _Row, of: str, at: int | None) -> Cell:
        value = getattr(row[0], of)[row[1]]
        cell: Cell = value if at is None else value[at]
        return cell

    look = {"unit": "pixels", **look}
    return Column(name, header, meaning, partial(get, of=of, at=at), **look)


_BEYOND = "pixel that the position sees, with the input continued beyond its borders"
_NUMBER: Look = {"dtype": "float64", "show": "{:g}".format}
_COLUMNS: tuple[Column[_Row], ...] = (
    Column("axis", "Axis", "Spatial axis, from 0", lambda row: row[1]),
    _column("size", "Size", "Size of the receptive field; the whole input where global", "size"),
    _column("stride", "Stride", "Distance of the fields of neighbouring positions; 0 where global", "stride",
            **_NUMBER),
    _column("padding", "Padding", "Distance by which the field of position 0 begins before the input",
            "padding", **_NUMBER),
    _column("window_first", "First", "First pixel that the position sees", "window", 0),
    _column("window_last", "Last", "Last pixel that the position sees", "window", 1),
    _column("unclipped_first", "First unclipped", f"First {_BEYOND}", "unclipped", 0),
    _column("unclipped_last", "Last unclipped", f"Last {_BEYOND}", "unclipped", 1),
    _column("because", "Global because", "Operation that makes the axis global", "because",
            dtype="str", show=str, missing="-"),
    _column("input_size", "Input", "Size of the input along the axis", "input_size"),
)  # fmt: skip
