"""The last round: whole models against the original, checked against float64, timed in turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import inf, sqrt
from typing import Any

import torch

from archcost.errors import ArchcostError
from archcost.latency.clock import Ratio, Timing, ratio
from archcost.paths.accuracy import error_against
from archcost.paths.registry import get
from archcost.rewriting.accelerating.assembling import Stage, is_untouched, new_modules
from archcost.rewriting.accelerating.choosing import (
    Allowed,
    Choice,
    Measured,
    Network,
    choices,
    labels_for,
)
from archcost.rewriting.accelerating.joining import Joined, joined
from archcost.rewriting.accelerating.layers import Layer
from archcost.rewriting.accelerating.layouts import CHANNELS_LAST, NCHW
from archcost.rewriting.accelerating.preparing import Asked
from archcost.rewriting.surgery.outputs import exact_outputs, fresh, outputs_of, worst_error

__all__ = ["Final", "Result", "fastest"]

_ROUNDS = 25
_LEAST_ROUNDS = 9
_MOST_LATE_S = 20.0
# Of the model, for a variant to be built, checked and timed.
_PASSES_OF_ONE = 8
_LEAST_VARIANTS = 2
_LEAST_GAIN = 1.01
# What the noise is taken to be where interruptions left fewer than two pairs of samples.
_UNKNOWN_NOISE = 0.1
# How often the tolerance of a layer is tightened, four times each, before the model stays as it was.
_TIGHTER = 6


@dataclass
class Result:
    """What came of it."""

    chosen: str | None
    """The name of the fastest; None for the original."""
    reason: str | None
    choices: Mapping[str, Choice]
    ratio: Ratio | None = None
    original: Timing | None = None
    accelerated: Timing | None = None
    error: float | None = None
    notes: tuple[str, ...] = ()


class Final:
    """One model and all that may come of it."""

    def __init__(self, stage: Stage, asked: Asked, network: Network, found: Measured) -> None:
        self.asked, self.network, self.found = asked, network, found
        self.stage = stage
        model = stage.model
        start = time.perf_counter()
        plain = outputs_of(model, asked.inputs)
        self.seconds = time.perf_counter() - start
        """About how long one pass of the original takes."""
        self.exact, self.reference = exact_outputs(model, asked.inputs, plain)
        self.original_error = worst_error(plain, self.exact)
        self.errors: dict[tuple[str, str], float] = {}
        self._exact_layers: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    def layer_error(self, layer: Layer, path: str) -> float:
        """Of a path with the layer's own weights on its own input."""
        if (layer.name, path) not in self.errors:
            self.errors[layer.name, path] = self._measure_error(layer, path)
        return self.errors[layer.name, path]

    def _measure_error(self, layer: Layer, path: str) -> float:
        if layer.name not in self._exact_layers:
            self._exact_layers[layer.name] = layer.exact()
        x, exact = self._exact_layers[layer.name]
        try:
            with torch.no_grad():
                prepared = get(path).prepare(layer.weight, layer.bias, layer.spec, layer.epilogue(None, True))
                return error_against(get(path).run(x, prepared), exact)
        except (ArchcostError, RuntimeError, MemoryError):
            return inf


@dataclass(frozen=True)
class _Variant:
    """A candidate for the whole model."""

    name: str
    fixed: int | None
    own_only: bool = False
    """PyTorch's own paths alone."""
    joins: bool = False
    """Convolutions that read the same run as one."""


_VARIANTS = (
    _Variant("layouts by the cut", None),
    _Variant("all in channels_last", CHANNELS_LAST),
    _Variant("all in NCHW", NCHW),
    _Variant("layouts by the cut, joined", None, joins=True),
    _Variant("all in channels_last, joined", CHANNELS_LAST, joins=True),
    _Variant("all in NCHW, joined", NCHW, joins=True),
    _Variant("PyTorch's own paths", None, own_only=True),
)


def fastest(final: Final, deadline: float) -> Result:
    """Cast by cast: chosen, built, checked; then all in turns with the original, which may win."""
    made: dict[str, _Built] = {}
    # A large model has no time for all of them.
    turns = (deadline - time.perf_counter()) / (_PASSES_OF_ONE * final.seconds)
    for variant in _VARIANTS[: max(_LEAST_VARIANTS, int(turns))]:
        built = _built(final, variant)
        if built is not None and not any(_same(built, other) for other in made.values()):
            made[variant.name] = built
    if not made:
        return Result(None, "no path is faster for any layer, or none is exact enough", {})
    names = _timed_first(final, made, deadline)
    if names is None:
        return Result(None, "no candidate is faster as a whole", {})
    # However late it is: what is said of the whole model rests on this.
    own = min(_LEAST_ROUNDS * 4 * final.seconds, _MOST_LATE_S)
    last = max(deadline, time.perf_counter() + own)
    timings = _compared(final, [None, names], last)
    against = ratio(timings["original"], timings[names], wall=final.asked.threads > 1)
    if not _gains(against):
        final.stage.close()
        reason = f"the fastest candidate ({names}) gains no more than the noise"
        return Result(None, reason, {}, against, timings["original"], timings[names])
    final.stage.show(names)
    final.stage.ready(list(final.network.layers), names)
    built = made[names]
    return Result(
        names, None, built.choices, against, timings["original"], timings[names], built.error, built.notes
    )


@dataclass(frozen=True)
class _Built:
    choices: dict[str, Choice]
    joined: Joined
    error: float
    notes: tuple[str, ...] = field(default=())


def _built(final: Final, variant: _Variant) -> _Built | None:
    """With layers exact enough for the model to be so; None where that leaves nothing changed."""
    limit = final.asked.tolerance
    if variant.joins and not final.network.programs:
        return None
    for _ in range(_TIGHTER):
        chosen = _chosen(final, variant, limit)
        together: Joined = {}
        if variant.joins:
            together, chosen = joined(final.network, final.found, chosen, _exact_enough(final, limit))
            if not together:
                return None
        layers = list(final.network.layers)
        if all(is_untouched(layer, chosen[layer.name]) for layer in layers):
            return None
        network, model = final.network, final.stage.model
        modules = new_modules(
            *(model, layers, chosen, final.asked.keeps_nan),
            programs=network.programs,
            pools=network.pools,
            joined=together,
        )
        final.stage.add(variant.name, modules)
        try:
            error = worst_error(outputs_of(final.stage.show(variant.name), final.asked.inputs), final.exact)
        except (ArchcostError, RuntimeError):
            error = inf  # its code cannot do with these layouts
        finally:
            final.stage.close()
        # An original that is off by itself cannot be asked for more than it has.
        if error <= max(final.asked.tolerance, 2 * final.original_error):
            notes = _notes(final.network, together)
            if limit < final.asked.tolerance:
                tight = f"layers are held to {limit:.0e}, for the model's outputs to be within the tolerance"
                notes = (tight, *notes)
            return _Built(chosen, together, error, notes)
        limit /= 4
    return None


def _exact_enough(final: Final, limit: float) -> Allowed:
    return lambda layer, path: final.layer_error(layer, path) <= limit


def _notes(network: Network, together: Joined) -> tuple[str, ...]:
    """What is done beside choosing paths."""
    groups = [group for several in together.values() for group in several]
    said = [
        f"{len(names)} {one if len(names) == 1 else several}"
        for names, one, several in (
            (network.programs, "block runs as a program", "blocks run as programs"),
            (network.pools, "max pooling may run a kernel", "max poolings may run a kernel"),
        )
        if names
    ]
    if groups:
        said.append(f"{sum(map(len, groups))} convolutions run as {len(groups)}: they read the same")
    return tuple(said)


def _chosen(final: Final, variant: _Variant, limit: float) -> dict[str, Choice]:
    """The best choice in which every layer is exact enough; only those that would be taken are looked at."""
    refused: set[tuple[str, str]] = set()

    def allowed(layer: Layer, path: str) -> bool:
        if variant.own_only and get(path).implementation(layer.spec, layer.task.dtype) != "PyTorch":
            return False
        return (layer.name, path) not in refused

    while True:
        labels = labels_for(final.network, final.found, allowed, variant.fixed)
        chosen = choices(final.network, final.found, labels, allowed)
        wrong = {
            (layer.name, chosen[layer.name].path)
            for layer in final.network.layers
            if chosen[layer.name].path != "native"
            and final.layer_error(layer, chosen[layer.name].path) > limit
        }
        if not wrong:
            return chosen
        refused |= wrong


def _same(built: _Built, other: _Built) -> bool:
    alike = built.joined == other.joined
    return alike and all(one[:3] == other.choices[name][:3] for name, one in built.choices.items())


def _timed_first(final: Final, made: Mapping[str, _Built], deadline: float) -> str | None:
    """The fastest of all, in a short round; None where the original is."""
    half = time.perf_counter() + max(0.0, deadline - time.perf_counter()) / 2
    timings = _compared(final, [None, *made], half)
    wall = final.asked.threads > 1
    against = {name: ratio(timings["original"], timings[name], wall=wall).median for name in made}
    best = max(against, key=lambda name: against[name])
    return best if against[best] > _LEAST_GAIN else None


def _compared(final: Final, names: list[str | None], deadline: float) -> dict[str, Timing]:
    def call_of(name: str | None) -> tuple[Callable[[Any], Any], Callable[[], Any]]:
        def prepare() -> Any:
            model = final.stage.show(name)
            args, kwargs = fresh(final.asked.inputs)
            model(*args, **kwargs)  # its own weights are in the caches again
            return model, fresh(final.asked.inputs)

        def call(given: Any) -> Any:
            model, (args, kwargs) = given
            return model(*args, **kwargs)

        return call, prepare

    both = {name or "original": call_of(name) for name in names}
    try:
        with torch.inference_mode():
            return final.asked.compare(
                {name: call for name, (call, _) in both.items()},
                prepare={name: prepare for name, (_, prepare) in both.items()},
                rounds=_ROUNDS,
                seconds=max(deadline - time.perf_counter(), 0.1),
                cpu_clock="thread" if final.asked.threads == 1 else "process",
            )
    finally:
        final.stage.close()


def _gains(against: Ratio) -> bool:
    """Whether the ratio is above 1 beyond its noise: twice the standard error of its median."""
    noise = 2 * 0.93 * against.spread / sqrt(against.pairs) if against.pairs > 1 else _UNKNOWN_NOISE
    return against.median - 1 > max(_LEAST_GAIN - 1, noise)
