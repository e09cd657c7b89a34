"""The last round: whole models against the original, checked against float64, timed in turns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import inf, sqrt
from typing import Any

import torch

from archcost.accelerating.assembling import Stage, is_untouched, new_modules
from archcost.accelerating.choosing import (
    Allowed,
    Choice,
    Measured,
    Network,
    choices,
    labels_for,
)
from archcost.accelerating.joining import Joined, joined
from archcost.accelerating.layers import Layer
from archcost.accelerating.layouts import CHANNELS_LAST, NCHW
from archcost.accelerating.preparing import Asked
from archcost.errors import ArchcostError
from archcost.latency.timing.clock import Ratio, Timing, ratio
from archcost.latency.timing.deadline import FEWEST, Deadline, TooLittleTime
from archcost.paths.accuracy import error_against
from archcost.paths.registry import get
from archcost.surgery.outputs import exact_outputs, fresh, outputs_of, worst_error

__all__ = ["FEWEST_PASSES", "Final", "Result", "fastest"]

_ROUNDS = 25
# Passes of the model for a variant to be built and checked, and for the fewest pairs, each side of them
# after a pass for the caches.
_PASSES_OF_ONE = 4
_PASSES_OF_PAIRS = 4 * FEWEST
FEWEST_PASSES = 10 + _PASSES_OF_PAIRS
"""For anything to come of it: exact outputs, one variant, and its pairs with the original."""
_LEAST_GAIN = 1.01
# The noise is taken to be this at least where the samples were interrupted.
_DISTURBED_NOISE = 0.05
_DISTURBED = "the machine was busy: most samples were interrupted, and are counted all the same"
_TOO_BUSY = f"fewer than {FEWEST} pairs of passes with the fastest candidate ({{}}): the machine was too busy"
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

    def __init__(
        self, stage: Stage, asked: Asked, network: Network, found: Measured, deadline: Deadline
    ) -> None:
        self.asked, self.network, self.found = asked, network, found
        self.stage, self.deadline = stage, deadline
        self.exact: list[torch.Tensor] = []
        self.reference, self.original_error = "original", 0.0
        self.errors: dict[tuple[str, str], float] = {}
        self._exact_layers: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    def run_exactly(self) -> None:
        """In float64, to compare with."""
        model, inputs = self.stage.model, self.asked.inputs
        plain = outputs_of(model, inputs)
        self.exact, self.reference = exact_outputs(model, inputs, plain)
        self.original_error = worst_error(plain, self.exact)

    def needs_time(self, passes: int = 0) -> None:
        """Raises TooLittleTime where so many passes of the model do not fit into what is left."""
        if not self.deadline.allows(passes * self.network.seconds):
            raise TooLittleTime(
                f"the time was up: a pass takes {self.network.seconds:.2g} s, and to compare whole models "
                f"takes about {FEWEST_PASSES} of them; give more seconds"
            )

    def layer_error(self, layer: Layer, path: str) -> float:
        """Of a path with the layer's own weights on its own input."""
        if (layer.name, path) not in self.errors:
            self.errors[layer.name, path] = self._measure_error(layer, path)
        return self.errors[layer.name, path]

    def _measure_error(self, layer: Layer, path: str) -> float:
        self.needs_time()
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


def fastest(final: Final) -> Result:
    """Cast by cast: chosen, built, checked; then all in turns with the original, which may win."""
    try:
        return _fastest(final)
    except TooLittleTime as error:
        final.stage.close()
        return Result(None, str(error), {})


def _fastest(final: Final) -> Result:
    final.needs_time(FEWEST_PASSES)
    final.run_exactly()
    made: dict[str, _Built] = {}
    for variant in _VARIANTS:
        # A large model has no time for all of them.
        if made and not final.deadline.allows(
            (len(made) * _PASSES_OF_ONE + _PASSES_OF_PAIRS) * final.network.seconds
        ):
            break
        built = _built(final, variant)
        if built is not None and not any(_same(built, other) for other in made.values()):
            made[variant.name] = built
    if not made:
        return Result(None, "no path is faster for any layer, or none is exact enough", {})
    names = _timed_first(final, made)
    if names is None:
        return Result(None, "no candidate is faster as a whole", {})
    timings = _compared(final, [None, names], final.deadline)
    if len(timings) < 2 or _against(final, timings, names).pairs < FEWEST:
        final.stage.close()
        return Result(None, _TOO_BUSY.format(names), {})
    against = _against(final, timings, names)
    original, accelerated = timings["original"], timings[names]
    disturbed = original.disturbed or accelerated.disturbed
    if not _gains(against, disturbed):
        final.stage.close()
        reason = f"the fastest candidate ({names}) gains no more than the noise"
        return Result(None, reason, {}, against, original, accelerated)
    final.stage.show(names)
    final.stage.ready(list(final.network.layers), names)
    built = made[names]
    notes = (*built.notes, *(_DISTURBED,) * disturbed)
    return Result(names, None, built.choices, against, original, accelerated, built.error, notes)


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


def _timed_first(final: Final, made: Mapping[str, _Built]) -> str | None:
    """The fastest of all, in a short round; None where the original is."""
    if len(made) == 1:
        return next(iter(made))
    later = max(final.deadline.left / 2, _PASSES_OF_PAIRS * final.network.seconds)
    timings = _compared(final, [None, *made], final.deadline.before(later))
    against = {name: _against(final, timings, name) for name in made if {"original", name} <= {*timings}}
    if not against:
        return next(iter(made))
    best = max(against, key=lambda name: against[name].median)
    few = against[best].pairs < FEWEST
    return best if few or against[best].median > _LEAST_GAIN else None


def _against(final: Final, timings: Mapping[str, Timing], name: str) -> Ratio:
    return ratio(timings["original"], timings[name], wall=final.asked.threads > 1)


def _compared(final: Final, names: list[str | None], deadline: Deadline) -> dict[str, Timing]:
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
                warmup=0,
                deadline=deadline,
                cpu_clock="thread" if final.asked.threads == 1 else "process",
            )
    finally:
        final.stage.close()


def _gains(against: Ratio, disturbed: bool) -> bool:
    """Whether the ratio is above 1 beyond its noise: twice the standard error of its median."""
    noise = 2 * 0.93 * against.spread / sqrt(against.pairs)
    return against.median - 1 > max(_LEAST_GAIN - 1, noise, _DISTURBED_NOISE * disturbed)
