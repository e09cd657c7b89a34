"""The store of measurements on the terminal: a table for each device, the units in its header."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, cast

from archcost.report.text import visible, width_of
from archcost.report.units import bytes_text, shape_text

if TYPE_CHECKING:
    from archcost.latency.store.store import Measurement, Store
    from archcost.spec import ConvSpec

__all__ = ["spec_text", "store_record", "store_text"]

_HEADER = (
    *("Convolution", "Path", "Kind", "Dtype", "Layout", "Threads"),
    *("Median ms", "Spread ms", "Clock", "Samples", "Dropped", "Error", "Workspace", "Measured (UTC)"),
)


def store_text(store: Store) -> str:
    """Each device, then its measurements; the last line counts them."""
    found = store.all()
    devices = {one.key.fingerprint: one.device for one in sorted(found, key=lambda one: one.measured_at)}
    lines: list[str] = []
    for mark, device in devices.items():
        rows = [_HEADER, *(_cells(one) for one in found if one.key.fingerprint == mark)]
        lines += [f"{mark}: {visible(device)}", *_aligned(rows), ""]
    count, machines = len(found), len(devices)
    of = f" of {machines} device{'s' * (machines != 1)}" if found else ""
    lines.append(f"{count} measurement{'s' * (count != 1)}{of} in {visible(store.path)}")
    return "\n".join(lines) + "\n"


def store_record(store: Store) -> dict[str, Any]:
    """The same for JSON: each measurement as a line of the export."""
    return {"store": store.path, "measurements": [one.record() for one in store.all()]}


def spec_text(spec: ConvSpec) -> str:
    """A convolution in a line, without what is as usual: ``64 -> 64, 3x3, padding 1, on 56x56, batch 1``."""
    said = [f"{spec.in_channels} -> {spec.out_channels}", shape_text(_axes(spec.kernel_size))]
    said += ["transposed"] * spec.transposed
    sides = [pair[0] if pair[0] == pair[1] else pair for pair in cast("Sequence[Any]", spec.padding)]
    if any(sides):
        one = len(set(sides)) == 1 and isinstance(sides[0], int)
        said.append(f"padding {sides[0] if one else ' '.join(map(_side, sides))}")
    for name, usual in (("stride", 1), ("dilation", 1), ("output_padding", 0)):
        values = _axes(getattr(spec, name))
        if any(value != usual for value in values):
            value = str(values[0]) if len(set(values)) == 1 else shape_text(values)
            said.append(f"{name.replace('_', ' ')} {value}")
    if spec.groups != 1:
        said.append(f"groups {spec.groups}")
    if spec.padding_mode != "zeros":
        said.append(spec.padding_mode)
    said += ["no bias"] * (not spec.bias)
    return ", ".join([*said, f"on {shape_text(_axes(spec.input_size))}", f"batch {spec.batch}"])


def _axes(values: Any) -> tuple[int, ...]:
    return cast("tuple[int, ...]", values)  # ConvSpec has made them tuples


def _side(side: int | tuple[int, int]) -> str:
    return str(side) if isinstance(side, int) else f"{side[0]}+{side[1]}"


def _cells(one: Measurement) -> tuple[str, ...]:
    key = one.key
    when = datetime.fromtimestamp(one.measured_at, timezone.utc).strftime("%Y-%m-%d %H:%M")
    return (
        *(
            spec_text(key.spec),
            visible(key.path),
            visible(key.kind),
            visible(key.dtype),
            visible(key.layout),
            str(key.threads),
        ),
        f"{one.median_s * 1e3:.3f}",
        "-" if one.spread_s is None else f"{one.spread_s * 1e3:.3f}",
        *(one.clock, str(one.samples), "disturbed" if one.disturbed else str(one.dropped)),
        "-" if one.error is None else f"{one.error:.0e}",
        "-" if one.workspace_bytes is None else bytes_text(one.workspace_bytes),
        when,
    )


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(width_of, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(_padded(c, w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows)
    return [f"  {line}" for line in lines]


def _padded(cell: str, width: int) -> str:
    return cell + " " * (width - width_of(cell))
