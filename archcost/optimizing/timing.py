"""Times of layers and of their candidates on this machine, each alone, in the layout it will have."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from archcost.latency.timing.clock import Timing, compare_calls
from archcost.latency.timing.deadline import Deadline
from archcost.latency.timing.engine import clock_for
from archcost.optimizing.candidates import Candidate, family_of, replacement_of
from archcost.optimizing.layers import Layer
from archcost.rewriting.plan.building import built
from archcost.surgery.checking import evaluating, record_inputs
from archcost.trace.call import Call

__all__ = ["Times", "whole"]

_POINTS = (0.1, 0.35, 0.7)
"""Shares of a layer's MACs at which the candidates of each family are timed; others are interpolated."""
_ROUNDS = 7
_PER_CALL = 0.05


class Times:
    """Measured seconds of layers and candidates; alike layers are timed once."""

    def __init__(self, model: nn.Module, call: Call, seconds: float = 60.0) -> None:
        self.model, self.call = model, call
        self.deadline = Deadline(seconds)
        self.known: dict[object, tuple[float, Mapping[str, list[tuple[int, float]]]]] = {}

    def of(
        self, layers: Sequence[Layer], candidates: Mapping[str, Sequence[Candidate]]
    ) -> tuple[dict[str, float], dict[str, list[Candidate]]]:
        """The seconds of each layer, and the candidates with theirs; without a time none is kept."""
        wanted = [one for one in layers if candidates.get(one.name)]
        inputs = record_inputs(self.model, self.call, [one.name for one in wanted])
        seconds: dict[str, float] = {}
        timed: dict[str, list[Candidate]] = {}
        for layer in wanted:
            if layer.name not in inputs:
                continue
            key = layer.specs, layer.linear
            if key not in self.known:
                if self.deadline.passed:
                    continue
                self.known[key] = self._measured(layer, candidates[layer.name], inputs[layer.name])
            own, families = self.known[key]
            seconds[layer.name] = own
            timed[layer.name] = [
                replace(one, seconds=_between(families[family], one.macs))
                for one in candidates[layer.name]
                if (family := family_of(one)) in families
            ]
        return seconds, timed

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
            timings = _compared(calls, self.deadline)
        clock = clock_for(torch.get_num_threads())
        calls_made = len(layer.specs)
        own = timings["old"].by(clock).median_s * calls_made
        found: dict[str, list[tuple[int, float]]] = defaultdict(list)
        for key, one in picked.items():
            if key in timings:
                found[family_of(one)].append((one.macs, timings[key].by(clock).median_s * calls_made))
        return own, {family: sorted(points) for family, points in found.items()}


def _call(module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> Callable[[], object]:
    return lambda: module(*args, **kwargs)


def _compared(calls: Mapping[str, Callable[[], object]], deadline: Deadline) -> dict[str, Timing]:
    return compare_calls(
        calls,
        rounds=_ROUNDS,
        deadline=deadline.within(max(1.0, _PER_CALL * _ROUNDS * len(calls))),
        cpu_clock="thread" if torch.get_num_threads() == 1 else "process",
    )


def whole(model: nn.Module, call: Call, seconds: float = 3.0) -> float:
    """Seconds of a forward pass."""
    args, kwargs = call.cloned()
    with evaluating(model), torch.no_grad():
        made = _compared({"whole": lambda: model(*args, **kwargs)}, Deadline(seconds))
    return made["whole"].by(clock_for(torch.get_num_threads())).median_s


def _between(points: Sequence[tuple[int, float]], macs: int) -> float:
    """Linear between the timed points, in proportion to the last pair beyond them."""
    xs, ys = [p[0] for p in points], [p[1] for p in points]
    if len(points) > 1 and not xs[0] <= macs <= xs[-1]:
        a, b = (0, 1) if macs < xs[0] else (-2, -1)
        slope = (ys[b] - ys[a]) / max(xs[b] - xs[a], 1)
        return max(ys[a] + slope * (macs - xs[a]), 0.3 * min(ys))
    return float(np.interp(macs, xs, ys))
