"""Times of layers and of their candidates on this machine, each alone, in the layout it will have."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import nn

from archcost.latency.timing.deadline import Deadline
from archcost.optimizing.candidates import Candidate, family_of, replacement_of
from archcost.optimizing.layers import Layer
from archcost.rewriting.plan.building import built
from archcost.surgery.checking import evaluating, record_inputs
from archcost.trace.call import Call

__all__ = ["Inside", "Times", "inside"]

_POINTS = (0.1, 0.35, 0.7)
"""Shares of a layer's MACs at which the candidates of each family are timed; others are interpolated."""
_ROUNDS = 3
_PASSES = 5, 25
"""Passes of a whole model, at least and at most."""
_SECONDS = 1.5
_BLOCK = 0.002
"""Seconds of a sample, at least, by up to so many calls."""
_MOST_CALLS = 64


class Times:
    """Measured seconds of layers and candidates; alike layers are timed once."""

    def __init__(self, model: nn.Module, call: Call, seconds: float = 60.0) -> None:
        self.model, self.call = model, call
        self.deadline = Deadline(seconds)
        self.known: dict[object, tuple[float, Mapping[str, list[tuple[int, float]]]]] = {}

    def of(
        self,
        layers: Sequence[Layer],
        candidates: Mapping[str, Sequence[Candidate]],
        given: nn.Module,
    ) -> tuple[Inside, dict[str, list[Candidate]]]:
        """The seconds of each layer inside of ``given``, the model as it is, and the candidates with theirs:
        what they take alone, times what the layer takes there over what it takes alone.

        Without a time no candidate is kept.
        """
        wanted = [one for one in layers if candidates.get(one.name)]
        inputs = record_inputs(self.model, self.call, [one.name for one in wanted])
        narrower = {name for one in wanted for new in candidates[one.name] for name in new.others}
        widths = {one.name: one.spec.in_channels for one in wanted}
        alone: dict[str, float] = {}
        timed: dict[str, list[Candidate]] = {}
        for layer in wanted:
            if layer.name not in inputs:
                continue
            key = layer.specs, layer.linear
            if key not in self.known:
                if self.deadline.passed:
                    continue
                alone_ = [one for one in candidates[layer.name] if not one.others]
                self.known[key] = self._measured(layer, alone_, inputs[layer.name])
            own, families = self.known[key]
            alone[layer.name] = own
            timed[layer.name] = [
                replace(one, seconds=_between(families[family], one.macs))
                for one in candidates[layer.name]
                if (family := family_of(one)) in families
            ]
        there = inside({"": given}, [*alone, *sorted(narrower - alone.keys())], self.call)[""]
        for name, own in alone.items():
            scale = there.layers[name] / own
            timed[name] = [replace(one, seconds=scale * (one.seconds or 0.0)) for one in timed[name]]
            timed[name] += [
                replace(one, seconds=_narrower(one, widths[name], there.layers))
                for one in candidates[name]
                if one.others
            ]
        return there, timed

    def _measured(
        self, layer: Layer, candidates: Sequence[Candidate], given: Call
    ) -> tuple[float, dict[str, list[tuple[int, float]]]]:
        families: dict[str, list[Candidate]] = defaultdict(list)
        for one in candidates:
            families[family_of(one)].append(one)
        picked: dict[str, Candidate] = {}
        for family, all_ in families.items():
            for share in _POINTS:
                near = min(all_, key=lambda one: abs(one.macs - share * layer.macs))
                picked[f"{family} {near.macs}"] = near
        args, kwargs = given.cloned()
        modules: dict[str, nn.Module] = {"old": layer.module}
        for key, one in picked.items():
            chain = replacement_of(layer, one.rule, one.options).chain
            modules[key] = built(chain, layer.module, None, {}).eval()
        calls = {key: _call(module, args, kwargs) for key, module in modules.items()}
        with evaluating(layer.module), torch.no_grad():
            taken = _medians(calls)
        calls_made = len(layer.specs)
        found: dict[str, list[tuple[int, float]]] = defaultdict(list)
        for key, one in picked.items():
            found[family_of(one)].append((one.macs, taken[key] * calls_made))
        return taken["old"] * calls_made, {family: sorted(points) for family, points in found.items()}


def _narrower(one: Candidate, width: int, seconds: Mapping[str, float]) -> float:
    """The layers' times in proportion to the channels that are left; what they really take is measured once
    they are chosen (`archcost.optimizing.pacing`)."""
    keep = one.options["keep"]
    assert isinstance(keep, Sequence)
    return len(keep) / width * sum(seconds[name] for name in (one.name, *one.others))


def _call(module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> Callable[[], object]:
    return lambda: module(*args, **kwargs)


def _medians(calls: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """Seconds of each call in a few rounds, of enough calls for the clock; how they take it in the model is
    measured there (`inside`)."""
    clock, counts = _clock(), dict[str, int]()
    samples: dict[str, list[float]] = defaultdict(list)
    for name, call in calls.items():
        call()
        begin = clock()
        call()
        counts[name] = min(_MOST_CALLS, 1 + int(_BLOCK / max(clock() - begin, 1e-9)))
    for _ in range(_ROUNDS):
        for name, call in calls.items():
            begin = clock()
            for _ in range(counts[name]):
                call()
            samples[name].append((clock() - begin) / counts[name])
    return {name: median(all_) for name, all_ in samples.items()}


def _clock() -> Callable[[], float]:
    return time.thread_time if torch.get_num_threads() == 1 else time.perf_counter


@dataclass(frozen=True)
class Inside:
    """Seconds of a forward pass, and of some layers in it, by name."""

    whole: float
    layers: Mapping[str, float]

    @property
    def rest(self) -> float:
        """Seconds outside of the layers."""
        return self.whole - sum(self.layers.values())


def inside(
    models: Mapping[str, nn.Module], names: Sequence[str], call: Call, seconds: float = _SECONDS
) -> dict[str, Inside]:
    """Times of models and of their layers with these names, the models in turns."""
    clock = _clock()
    args, kwargs = call.cloned()
    wholes: dict[str, list[float]] = defaultdict(list)
    parts: dict[str, list[dict[str, float]]] = defaultdict(list)
    deadline = Deadline(seconds)

    def passed(model: nn.Module) -> float:
        with evaluating(model), torch.no_grad():
            begin = clock()
            model(*args, **kwargs)
            return clock() - begin

    def passed_watched(model: nn.Module) -> dict[str, float]:
        spent = dict.fromkeys(names, 0.0)
        handles = [h for name in names for h in _watched(model.get_submodule(name), name, spent, clock)]
        try:
            passed(model)
        finally:
            for handle in handles:
                handle.remove()
        return spent

    for model in models.values():
        passed(model)
    for at in range(_PASSES[1]):
        if at >= _PASSES[0] and deadline.passed:
            break
        for key, model in models.items():
            wholes[key].append(passed(model))
            parts[key].append(passed_watched(model) if names else {})
    return {
        key: Inside(median(all_), {name: median(one[name] for one in parts[key]) for name in names})
        for key, all_ in wholes.items()
    }


def _watched(module: nn.Module, name: str, spent: dict[str, float], clock: Callable[[], float]) -> list[Any]:
    begun: list[float] = []

    def before(*_: object) -> None:
        begun.append(clock())

    def after(*_: object) -> None:
        spent[name] += clock() - begun.pop()

    return [module.register_forward_pre_hook(before), module.register_forward_hook(after)]


def _between(points: Sequence[tuple[int, float]], macs: int) -> float:
    """Linear between the timed points, in proportion to the last pair beyond them."""
    xs, ys = [p[0] for p in points], [p[1] for p in points]
    if len(points) > 1 and not xs[0] <= macs <= xs[-1]:
        a, b = (0, 1) if macs < xs[0] else (-2, -1)
        slope = (ys[b] - ys[a]) / max(xs[b] - xs[a], 1)
        return max(ys[a] + slope * (macs - xs[a]), 0.3 * min(ys))
    return float(np.interp(macs, xs, ys))
