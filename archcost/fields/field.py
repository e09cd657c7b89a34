"""ReceptiveField: the part of the input that one layer sees, per spatial axis."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from archcost.report.document import Asked, Column, Document, Table
from archcost.report.result import Result

__all__ = ["ReceptiveField"]

Window = tuple[int, int]
"""First and last pixel; (0, -1) holds none."""


@dataclass(frozen=True, kw_only=True)
class ReceptiveField(Result):
    """Size, stride and padding per spatial axis, as Araujo, Norris and Sim define them (Distill 2019).

    In pixels of the input: one position sees ``size`` pixels; the next one ``stride`` pixels further; the
    field of position 0 begins ``padding`` pixels before the input. Where an operation over the full extent
    of an axis (a global pooling, a gate, attention) makes it global, ``size`` is the whole input, stride
    and padding are 0, and ``local`` takes such operations as constants. Sizes do not depend on the size of
    the input, except where they are global, causal (recurrent layers, masks), or an operation's own windows
    depend on it (adaptive pooling).
    """

    layer: str
    """The module whose output this is; the empty name is the model's own."""
    size: tuple[int, ...]
    stride: tuple[float, ...]
    padding: tuple[float, ...]
    position: tuple[int, ...]
    """The output position that ``window`` and ``unclipped`` belong to; the centre if none was asked for."""
    window: tuple[Window, ...]
    """First and last pixel that this position sees, within the input."""
    unclipped: tuple[Window, ...]
    """The same, with the input continued beyond its borders."""
    sizes: tuple[tuple[int, ...], ...]
    """The sizes that occur where they differ by phase, as after upsampling; else one for each axis."""
    because: tuple[str | None, ...]
    """For each axis the module whose operation made it global, and the operation; None where it is not."""
    input_size: tuple[int, ...]
    """The extent of the input along these axes."""
    input_index: int = 0
    """Which tensor among the inputs."""
    input_name: str | None = None
    """How it is called in reports, ``input 1 (image)``; None where there is no other input."""
    calls: tuple[ReceptiveField, ...] = field(default=(), repr=False)
    """One for each call, where the module was called several times; this one is their union."""
    call: int | None = None
    """Which of several calls it is of; None for their union, and of a module called once."""
    _local: ReceptiveField | None = field(default=None, repr=False)

    @property
    def local(self) -> ReceptiveField:
        """With operations over the full extent taken as constants; a size of 0 sees constants only."""
        return self if self._local is None else self._local

    @property
    def is_global(self) -> bool:
        """Whether an operation over the full extent of an axis is among what it sees."""
        return any(why is not None for why in self.because)

    @property
    def reason(self) -> str | None:
        """What makes it global, in words; None where it is not."""
        whys = list(dict.fromkeys(why for why in self.because if why is not None))
        return ", ".join(whys) or None

    @property
    def differs_by_phase(self) -> bool:
        return any(len(sizes) > 1 for sizes in self.sizes)

    def named(self, layer: str) -> ReceptiveField:
        """The same of another layer, which sees the same."""
        if layer == self.layer:
            return self
        renamed = copy(self)
        object.__setattr__(renamed, "layer", layer)
        if self._local is not None:
            object.__setattr__(renamed, "_local", self._local.named(layer))
        return renamed

    def size_text(self) -> str:
        """For tables: ``427``, ``9x1``, ``675-691`` by phase, ``all (851)`` where global."""
        if not self.is_global:
            return _sizes_text(self.sizes)
        inner = _sizes_text(self.local.sizes) if any(self.local.size) else ""
        return f"all ({inner})" if inner else "all"

    def document(self, asked: Asked) -> Document:
        """As data a row for each axis; ``record`` has the names of this class's attributes."""
        axes = Table("axes", _COLUMNS, lambda: [(self, axis) for axis in range(len(self.size))])
        first, *lines = self.lines()
        shown = [axes] if asked.columns is not None else []
        return Document("archcost.field/1", [(first, "")], [axes], shown, self.record, lines)

    def record(self) -> dict[str, Any]:
        """A dict of plain values."""
        record = {name: getattr(self, name) for name in _RECORDED}
        local = self.local.record() if self.is_global else None
        return {**record, "input": self.input_index, "local": local}

    def lines(self) -> list[str]:
        """For people: where it is, what it sees, its size and its window."""
        of = f", of {self.input_name}" if self.input_name else ""
        lines = [f"{self.layer or 'the model'}, position {_each(self.position)}{of}"]
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
            lines.append("with that taken as a constant:" if any(shown.size) else "and nothing besides")
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


_RECORDED = ("layer", "size", "stride", "padding", "sizes", "position", "window", "unclipped", "because")


def _column(name: str, header: str, meaning: str, of: str, at: int | None = None, **more: Any) -> Column:
    """Of one axis, read from the attribute ``of``; of a pair its entry ``at``."""

    def get(row: Any, of: str, at: int | None) -> Any:
        value = getattr(row[0], of)[row[1]]
        return value if at is None else value[at]

    return Column(name, header, meaning, partial(get, of=of, at=at), unit="pixels", **more)


_BEYOND = "With the input continued beyond its borders"
_NUMBER: dict[str, Any] = {"dtype": "float64", "show": "{:g}".format}
_COLUMNS = (
    Column("axis", "Axis", "Of space, from 0", lambda row: row[1]),
    _column("size", "Size", "Of the field; the whole input where global", "size"),
    _column("stride", "Stride", "From one position to the next; 0 where global", "stride", **_NUMBER),
    _column("padding", "Padding", "How far position 0 begins before the input", "padding", **_NUMBER),
    _column("window_first", "First", "Pixel that the position sees", "window", 0),
    _column("window_last", "Last", "Pixel that the position sees", "window", 1),
    _column("unclipped_first", "First unclipped", _BEYOND, "unclipped", 0),
    _column("unclipped_last", "Last unclipped", _BEYOND, "unclipped", 1),
    _column("because", "Global because", "The operation that makes it global", "because",
            dtype="str", show=str, missing="-"),
    _column("input_size", "Input", "The extent of the input", "input_size"),
)  # fmt: skip
