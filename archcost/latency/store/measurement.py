"""Measurement: a key, the time measured for it, and the JSON line in which both are exchanged."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from typing import Any, Literal

from archcost.errors import ArchcostError
from archcost.latency.store.fingerprint import Fingerprint
from archcost.latency.store.kinds import PATH, kind_and_path
from archcost.latency.timing.clock import Timing
from archcost.latency.timing.engine import clock_for
from archcost.report.values import Json
from archcost.spec import ConvSpec

__all__ = [
    "Key",
    "Measurement",
    "OldKey",
    "StoreError",
    "checked",
    "from_record",
    "spec_from_json",
    "spec_json",
]

CLOCKS = ("cpu", "wall", "cuda")


class StoreError(ArchcostError):
    """The store cannot be opened, read or written, or gets a line that is no measurement."""


@dataclass(frozen=True)
class Key:
    """The identity of a measurement: a convolution, a path, and the conditions of timing."""

    fingerprint: str
    """`Fingerprint.hash` of the machine and software."""
    spec: ConvSpec
    dtype: str
    """The dtype of input and weights, as in ``float32``."""
    path: str
    """The name of the path; for other kinds, see `archcost.latency.store.kinds`."""
    layout: str = "contiguous"
    """The layout of the input: ``contiguous`` or ``channels_last``, of a step ``blocked``."""
    threads: int = 1
    """Threads of PyTorch."""
    kind: str = PATH
    """The subject and surroundings of the timing, see `archcost.latency.store.kinds`."""

    @cached_property
    def columns(self) -> tuple[str, str, str, str, int, str, str]:
        """The values of the store's key columns, the spec as `spec_json` writes it."""
        spec = spec_json(self.spec)
        return (self.fingerprint, spec, self.dtype, self.layout, self.threads, self.path, self.kind)


@dataclass(frozen=True)
class OldKey(Key):
    """A key of version 1, where the kind is part of the path's name."""

    def __post_init__(self) -> None:
        kind, path = kind_and_path(self.path)
        vars(self).update(kind=kind, path=path)


@dataclass(frozen=True)
class Measurement:
    """The time measured for a key, and its circumstances.

    Raises:
        StoreError: a value makes no sense.
    """

    key: Key
    device: str
    """Machine and software in words."""
    median_s: float
    """Median seconds of a call."""
    spread_s: float | None
    """The interquartile range in seconds; None for a single sample."""
    samples: int
    """The number of samples kept."""
    dropped: int
    """The number of samples left out because they were interrupted."""
    clock: Literal["cpu", "wall", "cuda"]
    """The clock of ``median_s``: CPU time, wall time, or the time between two events of a CUDA stream."""
    torch: str
    """The version of PyTorch."""
    disturbed: bool = False
    """Whether too few samples were free of interruptions, so that all were kept: the time is unreliable."""
    error: float | None = None
    """max |y - exact| / max |exact|, exact being the result in float64; None: not computed."""
    workspace_bytes: int | None = None
    """Memory beside input, output and weights; None: unknown."""
    measured_at: float = field(default_factory=time.time)
    """Seconds since 1970, UTC."""

    def __post_init__(self) -> None:
        wrong = _wrong(self)
        if wrong:
            raise StoreError(f"no measurement: {wrong}")

    @classmethod
    def of(
        cls,
        key: Key,
        timing: Timing,
        device: Fingerprint,
        *,
        clock: Literal["cpu", "wall"] | None = None,
        error: float | None = None,
        workspace_bytes: int | None = None,
    ) -> Measurement:
        """The measurement of a key from a `Timing` of `compare_calls`.

        Args:
            key: what was timed.
            timing: its samples.
            device: the fingerprint of this machine.
            clock: by default CPU time for one thread and wall time for more.
            error: see `Measurement.error`.
            workspace_bytes: see `Measurement.workspace_bytes`.
        """
        clock = clock or clock_for(key.threads)
        took = timing.by(clock)
        spread = None if math.isnan(took.spread_s) else took.spread_s
        return cls(
            *(key, str(device), took.median_s, spread, took.samples, took.dropped, clock, device.torch),
            *(took.disturbed, error, workspace_bytes),
        )

    def record(self) -> dict[str, Json]:
        """Plain values for a line of JSON; `from_record` reads them."""
        values = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "key"}
        key = {one.name: getattr(self.key, one.name) for one in fields(self.key)}
        return {**key, "spec": asdict(self.key.spec), **values}


_OF_KEY = tuple(one.name for one in fields(Key))
_OF_VALUE = tuple(one.name for one in fields(Measurement) if one.name != "key")


def spec_json(spec: ConvSpec) -> str:
    """The JSON of a spec, the same for equal specs."""
    return json.dumps(asdict(spec), sort_keys=True, separators=(",", ":"))


def spec_from_json(text: str) -> ConvSpec:
    """The spec that `spec_json` wrote.

    Raises:
        StoreError: the text is no spec.
    """
    try:
        return _spec(json.loads(text))
    except ValueError as error:
        raise StoreError(f"no convolution: {error}") from error


def from_record(record: Json) -> Measurement:
    """The measurement that `Measurement.record` wrote; every value is checked.

    Raises:
        StoreError: the message says which value is missing, unknown or wrong.
    """
    if not isinstance(record, Mapping):
        raise StoreError(f"no measurement: {record!r} is no object with names")
    path = record.get("path")
    if "kind" not in record and isinstance(path, str):  # a line of version 1
        kind, path = kind_and_path(path)
        record = {**record, "kind": kind, "path": path}
    missing = [name for name in (*_OF_KEY, *_OF_VALUE) if name not in record]
    unknown = [str(name) for name in record if name not in _OF_KEY and name not in _OF_VALUE]
    if missing or unknown:
        said = [f"{', '.join(missing)} missing"] * bool(missing)
        said += [f"{', '.join(unknown)} unknown"] * bool(unknown)
        raise StoreError(f"no measurement: {'; '.join(said)}")
    return checked({**record, "spec": _spec(record["spec"])})


def checked(values: Mapping[str, Any]) -> Measurement:
    """The measurement with the attributes of key and measurement by their names.

    Raises:
        StoreError: a value is of the wrong type, or makes no sense.
    """
    key = Key(**{name: values[name] for name in _OF_KEY})
    return Measurement(key, **{name: values[name] for name in _OF_VALUE})


def _spec(values: Json) -> ConvSpec:
    """The spec with these plain values; values of another type are refused."""
    if not isinstance(values, dict):
        raise StoreError(f"no convolution: {values!r} is no object with names")
    known = {one.name for one in fields(ConvSpec)}
    if set(values) != known:
        odd = ", ".join(sorted(set(values) ^ known))
        raise StoreError(f"no convolution: {odd} missing or unknown")
    for name, value in values.items():
        kind: type = {"bias": bool, "transposed": bool, "padding_mode": str}.get(name, int)
        if not all(type(leaf) is kind for leaf in _leaves(value)):
            raise StoreError(f"no convolution: {name} is {value!r}")
    try:
        made: Mapping[str, Any] = values  # checked just now
        return ConvSpec(**made)
    except (ArchcostError, ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise StoreError(f"no convolution: {error}") from error


def _leaves(value: Json) -> list[Json]:
    return [leaf for one in value for leaf in _leaves(one)] if isinstance(value, (list, tuple)) else [value]


def _wrong(found: Measurement) -> str | None:
    """The first wrong value in words, or None: SQLite would take any."""
    key = found.key
    values = {**vars(key), **vars(found)}
    for name in ("device", "torch", "fingerprint", "dtype", "layout", "path", "kind"):
        if not isinstance(values[name], str):
            return f"{name} must be text, got {values[name]!r}"
    if not isinstance(key.spec, ConvSpec):
        return f"spec must be a ConvSpec, got {key.spec!r}"
    if not isinstance(found.disturbed, bool):
        return f"disturbed must be true or false, got {found.disturbed!r}"
    if found.clock not in CLOCKS:
        return f"clock must be one of {', '.join(CLOCKS)}, got {found.clock!r}"
    for name, least in {"threads": 1, "samples": 1, "dropped": 0, "workspace_bytes": 0}.items():
        number = values[name]
        unknown = number is None and name == "workspace_bytes"
        if not unknown and (type(number) is not int or not least <= number < 2**63):
            return f"{name} must be a whole number, at least {least}, got {number!r}"
    for name in ("median_s", "measured_at", "spread_s", "error"):
        number = values[name]
        unknown = number is None and name in ("spread_s", "error")
        if not unknown and (
            not isinstance(number, (int, float)) or isinstance(number, bool) or not 0 <= number < math.inf
        ):
            return f"{name} must be a number, at least 0, got {number!r}"
    return None
