"""Budget: the most that a model may cost, and the least that it must see; held against an Analysis."""

from __future__ import annotations

import difflib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import TYPE_CHECKING

from archcost.analysis.traced import TracedModel
from archcost.errors import InputError
from archcost.report.quantity import quantity
from archcost.report.text import visible
from archcost.report.units import axes_text, bytes_text, count_text, percent_text, si_text

if TYPE_CHECKING:
    from archcost.cost.costs import ModuleCost
    from archcost.trace.sites import Site

__all__ = ["MEASURES", "Breach", "Budget", "Costly", "Limit", "Measure"]

Limit = str | int | float

COSTLIEST = 3
"""Most lines of code named in a breach."""
LEAST_SHARE = 0.05
"""Layers with less than this share of the whole are not named."""


@dataclass(frozen=True)
class Measure:
    """A counted number of the whole model that a budget can limit."""

    name: str
    """The name of the number in ``analysis.total``."""
    unit: str
    show: Callable[[int], str]
    of_layer: str | None
    """The attribute of a layer that says how much of it is the layer's; None where it is no sum."""
    unknown: Callable[[TracedModel], bool] = lambda analysis: False
    """Whether the number is a lower bound, because operations could not be counted."""

    def of(self, analysis: TracedModel) -> int | None:
        """The number of the whole model; None where it is not known."""
        value: int | None = getattr(analysis.total, self.name)
        return value


def _macs_unknown(analysis: TracedModel) -> bool:
    return any(item.macs_unknown for item in analysis.uncounted)


MEASURES: dict[str, Measure] = {
    "params": Measure("params", "parameters", count_text, "params"),
    "macs": Measure("macs", "MACs", si_text, "macs", _macs_unknown),
    "flops": Measure("flops", "FLOPs", si_text, "flops", _macs_unknown),
    "peak_memory": Measure("peak_memory_bytes", "bytes", bytes_text, "peak_memory_bytes"),
    "kept_for_backward": Measure("kept_for_backward_bytes", "bytes", bytes_text, "kept_for_backward_bytes"),
    "depth": Measure("depth", "layers", count_text, None),
}
"""The measures by the name that follows ``max_``."""


@dataclass(frozen=True)
class Costly:
    """The layers built by one line of code that cost much of what exceeds a limit."""

    name: str
    """The name of the costliest of them."""
    type_name: str
    value: int
    """The cost of all of them, for the peak memory the largest."""
    built_at: Site | None
    others: int = 0
    """Number of further layers that the line builds."""


@dataclass(frozen=True)
class Breach:
    """A limit that a model does not keep, with the layers that cost most."""

    limit: str
    """The name of the limit, such as ``max_macs``."""
    text: str
    """The limit, the model's value and the difference, in a sentence."""
    costliest: tuple[Costly, ...] = ()
    show: Callable[[int], str] = count_text

    def __str__(self) -> str:
        lines = [f"{self.limit}: {self.text}"]
        for layer in self.costliest:
            built = f", built at {layer.built_at}" if layer.built_at else ""
            more = f" and {layer.others} more" if layer.others else ""
            lines.append(
                f"    {visible(layer.name)}{more} ({layer.type_name}): {self.show(layer.value)}{built}"
            )
        return "\n".join(lines)


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The most that a model may cost and the least that it must see; None is no limit.

    Limits are numbers or texts, such as ``"26M"``, ``"4.2G"`` and ``"12 MB"``, which become numbers.

    Raises:
        InputError: a limit cannot be read.
    """

    max_params: Limit | None = None
    max_macs: Limit | None = None
    max_flops: Limit | None = None
    max_peak_memory: Limit | None = None
    """Bytes of activations alive at once."""
    max_kept_for_backward: Limit | None = None
    """Bytes of activations that autograd saves for the backward pass."""
    max_depth: Limit | None = None
    """Weighted layers on the longest path."""
    min_receptive_field: Limit | Sequence[Limit] | None = None
    """Pixels that a position of the last feature map sees, for all axes or for each; exact or local field."""
    max_latency_ratio: Limit | None = None
    """Latency over that of a reference model; measured, so not among the `breaches` of an Analysis."""
    macs: Limit | None = None
    """For `archcost.optimize`, as the next four: up to 1 a share of the whole model, above a number. It also
    keeps ``max_macs``, ``max_params``, ``flash`` and ``sram``."""
    params: Limit | None = None
    memory: Limit | None = None
    """Bytes of the weights, as a file of them takes."""
    latency: Limit | None = None
    """A share of the model's time on this machine."""
    error: Limit | None = None
    """Share of outputs whose largest class may change; without classes their relative error."""
    flash: Limit | None = None
    """Bytes of weights in ``weights_dtype``: see `archcost.footprint`."""
    sram: Limit | None = None
    """Bytes of activations alive at once in ``activations_dtype``, written in place where possible."""
    weights_dtype: str | None = None
    """The dtype in which ``flash`` is counted, such as ``"int8"``; by default the model's own."""
    activations_dtype: str | None = None
    """The dtype in which ``sram`` is counted; by default the model's own."""

    def __post_init__(self) -> None:
        for name in _names():
            limit = getattr(self, name)
            if limit is not None:
                object.__setattr__(self, name, _read(name, limit))

    @classmethod
    def of(cls, limits: Mapping[str, object], where: str = "") -> Budget:
        """A Budget from a table of limits, such as one of a configuration file.

        Args:
            limits: the limits by name.
            where: the place of the table, put before a message.

        Raises:
            InputError: a limit has another name or cannot be read; the message names it.
        """
        for name in limits:
            if name not in _names():
                near = difflib.get_close_matches(name, _names(), n=1)
                hint = f"did you mean {near[0]}?" if near else f"limits are {', '.join(_names())}"
                raise InputError(f"{where}unknown limit {name!r}; {hint}")
        try:
            return cls(**limits)  # type: ignore[arg-type]
        except InputError as error:
            raise InputError(f"{where}{error}") from error

    def breaches(self, analysis: TracedModel) -> tuple[Breach, ...]:
        """The limits on counted numbers that the model does not keep.

        A limit on a number that is not known, or known as a lower bound only, counts as not kept: an unknown
        is never 0.
        """
        found = [
            _breach(f"max_{key}", limit, measure, analysis)
            for key, measure in MEASURES.items()
            if (limit := getattr(self, f"max_{key}")) is not None
        ]
        if self.flash is not None or self.sram is not None:
            found += _deployed(self, analysis)
        if self.min_receptive_field is not None:
            found.append(_narrow(_sizes(self.min_receptive_field), analysis))
        return tuple(breach for breach in found if breach is not None)


def _deployed(budget: Budget, analysis: TracedModel) -> list[Breach]:
    """The limits on flash and SRAM that a model does not keep, with the layers that take most."""
    from archcost.analysis.footprint import footprint_of

    limits = {name: getattr(budget, name) for name in ("flash", "sram")}
    found = footprint_of(analysis, budget.weights_dtype, budget.activations_dtype, **limits)
    infos = analysis.trace.modules
    breaches = []
    for name, dtype, where in (("flash", found.weights, ""), ("sram", found.activations, found.sram_at)):
        used, limit = getattr(found, name), limits[name]
        if limit is None or used <= limit:
            continue
        layers = sorted(found.layers, key=lambda one: -getattr(one, name))[:COSTLIEST]
        costly = (
            Costly(one.name, one.type_name, getattr(one, name), infos[one.name].built_at)
            for one in layers
            if one.name in infos
        )
        at = f" at {visible(where)}" if where else ""
        above = f"{bytes_text(used - limit)} above {bytes_text(limit)}"
        text = f"{bytes_text(used)}{at} in {dtype.replace('their own', 'the own dtypes')}, {above}"
        breaches.append(Breach(name, text, tuple(costly), bytes_text))
    return breaches


@cache
def _names() -> tuple[str, ...]:
    return tuple(one.name for one in fields(Budget))


def _read(name: str, limit: object) -> int | float | str | tuple[int, ...]:
    """A limit as a number, that on the receptive field as one for each axis; a dtype as its name."""
    if name in ("weights_dtype", "activations_dtype"):
        from archcost.trace.inputs import as_dtype

        return str(as_dtype(limit)).removeprefix("torch.")  # type: ignore[arg-type]
    if name in ("flash", "sram"):
        return quantity(limit, "bytes", what=name)
    if name == "min_receptive_field":
        return _sizes(limit)
    measure = MEASURES.get({"memory": "peak_memory"}.get(name, name.removeprefix("max_")))
    unit = "" if measure is None or measure.unit == "layers" else measure.unit
    return quantity(limit, unit, what=name)


def _sizes(limit: object) -> tuple[int, ...]:
    each = limit if isinstance(limit, (tuple, list)) else (limit,)
    return tuple(int(quantity(one, what="min_receptive_field")) for one in each)


def _breach(name: str, limit: int, measure: Measure, analysis: TracedModel) -> Breach | None:
    value = measure.of(analysis)
    unit = "" if measure.unit == "bytes" else f" {measure.unit}"
    if value is None:
        return Breach(name, "is not known for this model; its notes say why")
    if value > limit:
        bound = ">= " if measure.unknown(analysis) else ""
        more = f"{percent_text(100 * (value - limit) / limit)} %" if limit else "all of it"
        above = f"{measure.show(value - limit)} ({more}) above {measure.show(limit)}"
        text = f"{bound}{measure.show(value)}{unit}, {above}"
        return Breach(name, text, _costliest(measure, analysis), measure.show)
    if measure.unknown(analysis):
        ops = ", ".join(dict.fromkeys(item.op for item in analysis.uncounted if item.macs_unknown))
        text = f"cannot be held: {ops} could not be counted; register a counting rule (archcost.rules)"
        return Breach(name, text)
    return None


def _costliest(measure: Measure, analysis: TracedModel) -> tuple[Costly, ...]:
    """The lines of code whose layers cost most; a layer whose construction was not recorded stands alone."""
    key = measure.of_layer
    if key is None:
        return ()
    infos = analysis.trace.modules
    lines: dict[object, list[ModuleCost]] = defaultdict(list)
    for layer in analysis.layers:
        site = infos[layer.name].built_at if layer.name in infos else None
        lines[layer.name if site is None or site.is_class else site.frame].append(layer)
    found = []
    for layers in lines.values():
        values = [int(getattr(layer, key) or 0) for layer in layers]
        first = layers[values.index(max(values))]
        info = infos.get(first.name)
        value = max(values) if measure is MEASURES["peak_memory"] else sum(values)
        site = None if info is None else info.built_at
        found.append(Costly(first.name, first.type_name, value, site, len(layers) - 1))
    least = LEAST_SHARE * (measure.of(analysis) or 0)
    found.sort(key=lambda one: -one.value)
    return tuple(one for one in found[:COSTLIEST] if one.value >= least)


def _narrow(limit: tuple[int, ...], analysis: TracedModel) -> Breach | None:
    """The breach of a least receptive field: that of the last feature map, exact or local, on each axis."""
    name, wanted = "min_receptive_field", axes_text(limit)
    field = analysis.fields.network
    if field is None:
        return Breach(name, f"no spatial feature map, so no receptive field of {wanted}")
    each = limit * len(field.size) if len(limit) == 1 else limit
    if len(each) != len(field.size):
        raise InputError(
            f"{name}: {len(limit)} numbers for an input of {len(field.size)} spatial axes; give one for each"
        )
    sizes = tuple(map(max, field.size, field.local.size))
    if all(size >= least for size, least in zip(sizes, each, strict=True)):
        return None
    short = axes_text([max(0, least - size) for size, least in zip(sizes, each, strict=True)])
    return Breach(name, f"{axes_text(sizes)} pixels at {field.layer}, {short} below {wanted}")
