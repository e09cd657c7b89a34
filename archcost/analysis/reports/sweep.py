"""The Document of a Sweep: the answer in sentences, the points, how measures grow, what costs most.

The schema of ``archcost.sweep/1``:

- ``schema``, ``archcost`` and ``torch`` as in ``archcost.analysis/1``.
- ``model``, ``device`` (null where nothing was measured), ``answers``, ``notes``.
- ``points``: a list with every column of the table of points by its name, and ``shares``: a list of
  ``{"name", "macs", "share", "layer"}``, the MACs by kind of operation and type of module.
- ``growth``: a list of ``{"measure", "along", "exponent", "at_low", "at_high", "points"}``: the measure grows
  as this power of the side or the batch; the power between the two smallest and the two largest points.
- ``overtaken``: a list of ``{"faster", "slower", "side"}``.

Whatever is not known, or was not measured, is null.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING

from archcost.analysis.reports.commands import is_spec
from archcost.analysis.scaling import Growth, Overtaken, Share
from archcost.report.columns import milliseconds, number, words
from archcost.report.document import Asked, Column, Document, Listing, Note, Page, Table, find, ordered
from archcost.report.grid import Grid
from archcost.report.notes import signs
from archcost.report.page.parts import Along, Fact, Measure, Picture, Point
from archcost.report.text import visible
from archcost.report.units import (
    bytes_text,
    count_text,
    number_text,
    percent_text,
    ratio_text,
    shape_text,
    si_text,
)

if TYPE_CHECKING:
    from archcost.analysis.swept import SweepPoint, SweptModel

__all__ = ["document_of", "side_text"]

_NAMES = {
    "macs": "MACs",
    "params": "parameters",
    "peak_memory_bytes": "peak memory",
    "kept_for_backward_bytes": "memory saved for backward",
    "activation_bytes": "activation bytes",
    "arithmetic_intensity": "intensity",
    "latency_ms": "latency",
}
_AXES = ("side", "batch")
_ADVERBS = {
    "constant": "not at all",
    "linear": "linearly",
    "quadratic": "quadratically",
    "cubic": "cubically",
}


def side_text(side: float) -> str:
    """A side in pixels or tokens: ``448``; ``391.9`` where the axes differ."""
    return f"{side:,.4g}" if side != int(side) else f"{int(side)}"


def _share(point: SweepPoint) -> str | None:
    if not point.shares:
        return None
    top = point.shares[0]
    return f"{top.name} {percent_text(100 * top.share)} %"


def _bytes(name: str, header: str, meaning: str, keep: float) -> Column[SweepPoint]:
    return number(name, header, meaning, bytes_text, dtype="Int64", unit="bytes", keep=keep)


def _shown_size(point: SweepPoint) -> str:
    if point.input_text:
        return visible(point.input_text.split(" ")[0])
    size = point.input_size
    return shape_text(size) if isinstance(size, tuple) else visible(str(size))


_POINTS: tuple[Column[SweepPoint], ...] = (
    words("input", "Input", "Shapes of the inputs", _shown_size, keep=9),
    number("side", "Side", "Geometric mean of the spatial axes, or the tokens", side_text, keep=1),
    words("batch", "Batch", "Inputs in a batch", dtype="int64", show=count_text, keep=1),
    words("dtype", "Dtype", "The dtype of weights and floating-point inputs", keep=1),
    Column(
        "macs", "MACs", "Multiply-accumulates of a forward pass", lambda p: p.macs, "MACs", si_text,
        dtype="Int64", missing="-", keep=8, lower_bound=lambda p: bool(p.uncounted),
    ),
    number("params", "Params", "Parameters", count_text, dtype="Int64", keep=2),
    _bytes("param_bytes", "Weights", "Bytes of the parameters", 2),
    _bytes("peak_memory_bytes", "Peak memory", "The most activation bytes alive at once in inference", 7),
    _bytes("kept_for_backward_bytes", "Saved", "Activation bytes that autograd saves for backward", 6),
    _bytes("activation_bytes", "Activations", "Bytes of all activations", 4),
    number("arithmetic_intensity", "FLOPs/B", "Operations for each byte moved", number_text, keep=3),
    milliseconds("latency_ms", "Latency ms", "Median time of a forward pass", keep=8),
    milliseconds("latency_spread_ms", "Spread ms", "Interquartile range of that time", keep=4),
    number("throughput", "Inputs/s", "Inputs a second", number_text, keep=7),
    words("costliest", "Most MACs in", "The kind of layer with the most MACs, and its share", _share, keep=5),
    words("reason", "Does not run", "Why the model does not run at this point", keep=8),
)  # fmt: skip
_FACTS = {
    **{"MACs": "macs", "Peak memory": "peak_memory_bytes", "Saved for backward": "kept_for_backward_bytes"},
    **{"Latency in ms": "latency_ms", "Inputs a second": "throughput"},
}
_MOST = 3
_DEFAULT = (
    *("input", "macs", "peak_memory_bytes", "kept_for_backward_bytes", "arithmetic_intensity"),
    *("latency_ms", "throughput", "costliest", "reason"),
)
_GROWTH: tuple[Column[Growth], ...] = (
    words("measure", "Measure", "What grows", keep=9),
    words("along", "With", "The axis: the side, or the batch", keep=8),
    number("exponent", "Power", "The exponent, by least squares on logarithms", "{:.3f}".format, keep=7),
    number("at_low", "At the low end", "That of the two smallest points", "{:.3f}".format, keep=5),
    number("at_high", "At the high end", "That of the two largest points", "{:.3f}".format, keep=6),
    words("points", "Points", "Points of the sweep on this line", dtype="int64", show=count_text, keep=1),
    words("word", "Grows", "The exponent in a word", keep=8),
)
_Row = tuple["SweepPoint", Share]
_SHARES: tuple[Column[_Row], ...] = (
    words("name", "Layers", "Kind of operation, and type of the modules", lambda r: r[1].name, keep=9),
    words("input", "Input", "Shapes of the inputs", lambda r: _shown_size(r[0]), keep=8),
    words("macs", "MACs", "Their MACs", lambda r: r[1].macs, dtype="int64", show=si_text, keep=7),
    number("share", "%", "Their share of the MACs", percent_text, lambda r: 100 * r[1].share, keep=8),
    words("layer", "Costliest", "The module among them with the most", lambda r: r[1].layer, keep=4),
)


def document_of(sweep: SweptModel, asked: Asked) -> Document:
    """The contents of a Sweep to show."""
    asked.without_depth("a sweep")
    by = {
        name: asked if (asked.by or "points") == name else Asked() for name in ("points", "growth", "shares")
    }
    shown = [*_DEFAULT]
    if len({one.dtype for one in sweep.points if one.reason is None}) > 1:
        shown[1:1] = ["dtype", "param_bytes"]
    rows_of = partial(ordered, sweep.points, _POINTS, by["points"], "macs")
    points = Table("points", _POINTS, rows_of, shown, only_known=True)
    growth = Table(
        "growth", _GROWTH, lambda: ordered(sweep.growth, _GROWTH, by["growth"], "exponent"),
        ("along", "exponent", "at_low", "at_high", "word"), title=("How it grows", ""), is_summary=False,
    )  # fmt: skip
    ends = [one for one in sweep.along_side if one.shares]
    rows = [(point, share) for point in dict.fromkeys((*ends[:1], *ends[-1:])) for share in point.shares]
    shares = Table(
        "shares", _SHARES, lambda: ordered(rows, _SHARES, by["shares"], "macs"), title=("What costs most", "")
    )
    return Document(
        "archcost.sweep/1",
        [(visible(sweep.name), f"{len(sweep.points)} point{'s' * (len(sweep.points) != 1)}")],
        [points, growth, shares],
        [points, *[growth] * bool(sweep.growth), *[shares] * bool(rows)],
        lambda: _record(sweep),
        lines=[*_sentences(sweep)],
        notes=partial(_notes, sweep),
        page=lambda: _page(sweep, [Listing(points), Listing(growth), Listing(shares)]),
    )


def _record(sweep: SweptModel) -> dict:  # type: ignore[type-arg]
    def of(point: SweepPoint) -> dict:  # type: ignore[type-arg]
        return {c.name: c.get(point) for c in _POINTS} | {"shares": [asdict(one) for one in point.shares]}

    return {
        "model": sweep.name,
        "device": sweep.device,
        "answers": [*_sentences(sweep)],
        "notes": sweep.notes,
        "points": [of(point) for point in sweep.points],
        "growth": [asdict(one) for one in sweep.growth],
        "overtaken": [asdict(one) for one in sweep.overtaken],
    }


def _sentences(sweep: SweptModel) -> Iterator[str]:
    """The answer: how much more the large end costs, what was asked, the powers, and what overtakes what."""
    line = sweep.along_side
    name = visible(sweep.name.rpartition(":")[2] or sweep.name)
    if len(line) > 1 and line[0].macs and line[-1].macs:
        low, high = line[0], line[-1]
        more = f"{si_text(high.macs or 0)} MACs against {si_text(low.macs or 0)}"
        times = ratio_text((high.macs or 0) / (low.macs or 1)).removesuffix("x")
        yield (
            f"At {side_text(high.side)} px {name} costs {times} times as much as at "
            f"{side_text(low.side)} ({more})."
        )
    elif (first := next((one for one in sweep.points if one.reason is None), None)) is not None:
        yield f"{name} costs {si_text(first.macs or 0)} MACs at {_shown_size(first)}."
    yield from sweep.answers
    for along in _AXES:
        if said := [one for one in sweep.growth if one.along == along and one.measure != "params"]:
            yield _growing(along, said)
    yield from map(_overtaking, sweep.overtaken)
    if missing := sum(one.reason is not None for one in sweep.points):
        yield f"At {missing} of {len(sweep.points)} points the model does not run; the table says why."


def _growing(along: str, growth: Sequence[Growth]) -> str:
    alike: dict[str, list[str]] = {}
    for one in growth:
        alike.setdefault(one.word, []).append(_NAMES[one.measure])
    parts = [f"{_listed(names)} {_ADVERBS.get(word, word)}" for word, names in alike.items()]
    return f"How costs grow with the {along}: {'; '.join(parts)}."


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]


def _overtaking(one: Overtaken) -> str:
    return f"From {side_text(one.side)} on, {one.faster} costs more than {one.slower}."


def _notes(sweep: SweptModel, grids: Sequence[Grid]) -> list[Note]:
    notes = [*signs(grids)]
    if sweep.device is not None:
        notes.append(("Measured on", visible(sweep.device)))
    else:
        notes.append(("Counted", "on paper: nothing was computed, and no time measured"))
    return notes + [("Note", visible(note)) for note in sweep.notes]


def _page(sweep: SweptModel, tables: Sequence[Listing]) -> Page:
    """The ends of the sweep, what costs most at the large one, and what a smaller input would save."""
    line = sweep.along_side
    if not line:
        return Page(tables=tables)
    low, high = line[0], line[-1]
    of = f"{side_text(low.side)} to {side_text(high.side)} px" if low is not high else _shown_size(high)
    columns = [(head, find(name, _POINTS)) for head, name in _FACTS.items()]
    facts = [
        Fact(head, " → ".join(dict.fromkeys((column.text(low), column.text(high)))), of)
        for head, column in columns
        if column.get(low) is not None and column.get(high) is not None
    ]
    costly = [
        Point(one.name, f"{si_text(one.macs)} MACs, {percent_text(100 * one.share)} % of all, most in "
              f"{visible(one.layer) or 'the model'}", one.share)
        for one in high.shares[:_MOST]
    ]  # fmt: skip
    smaller = [one for one in reversed(line[:-1]) if one.macs and high.macs][:_MOST]
    advice = [
        Point(f"{side_text(one.side)} px", _saving(one, high), 1 - (one.macs or 0) / (high.macs or 1))
        for one in smaller
    ]
    if is_spec(sweep.name) and isinstance(high.input_size, tuple):
        size = ",".join(map(str, high.input_size))
        text = f"replacements for the convolutions at {_shown_size(high)}, with the change in every cost"
        convolutions = sum(one.share for one in high.shares if one.name.startswith("convolution"))
        if convolutions < 0.5:
            text = f"for the convolutions alone, which have {percent_text(100 * convolutions)} % of the MACs"
        command = f"archcost propose {shlex.quote(sweep.name)} --input-size {size}"
        advice.append(Point("Cheaper layers", text, command=command))
    title = f"What costs most at {_shown_size(high)}"
    return Page(
        facts=facts,
        costly=costly,
        costly_title=title,
        advice=advice,
        pictures=_pictures(sweep),
        tables=tables,
    )


def _saving(one: SweepPoint, large: SweepPoint) -> str:
    """The savings of a smaller input, of the costs at the large end, in words."""
    saved = []
    for name in ("macs", "peak_memory_bytes", "latency_ms"):
        less, more = getattr(one, name), getattr(large, name)
        if less is not None and more:
            saved.append(f"{percent_text(100 * (1 - less / more))} % of the {_NAMES[name]}")
    return f"in place of {side_text(large.side)} px saves {', '.join(saved)}; what it loses is not known"


def _pictures(sweep: SweptModel) -> list[Picture]:
    line = sweep.along_side
    if len(line) < 2:
        return []
    return [
        Along(
            title="How do the costs grow?",
            about="The points that run, by increasing side, at the first batch and dtype.",
            items=[f"{side_text(one.side)} px" for one in line],
            measures=[
                Measure("MACs", "MACs", [one.macs for one in line]),
                Measure("Peak memory", "bytes", [one.peak_memory_bytes for one in line]),
                Measure("Saved for backward", "bytes", [one.kept_for_backward_bytes for one in line]),
                *([Measure("Latency", "ms", [one.latency_ms for one in line])] if sweep.device else []),
            ],
        )
    ]
