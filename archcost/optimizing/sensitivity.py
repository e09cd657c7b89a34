"""How much the model's outputs move for an error in each layer's output."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import exp, log

import torch
from torch import Tensor, nn

from archcost.optimizing.allowance import Allowance
from archcost.optimizing.layers import Layer
from archcost.optimizing.replaying import Replay
from archcost.optimizing.verify import moved
from archcost.weights.features import weight_of

__all__ = ["NOISE", "Response", "moved_by", "responses"]

NOISE = 0.15
"""The noise that is injected, relative to the root mean square of a channel of a layer's output."""
_LEAST = 1e-12


class Response:
    """The change of the outputs for a squared relative error of one layer's output.

    Linear through the measured points in logarithms, in proportion beyond them.
    """

    def __init__(self, error: float, change: float) -> None:
        self.points = {max(error, _LEAST): max(change, _LEAST)}

    def add(self, error: float, change: float) -> None:
        """Add a measured point; points within a third of it are replaced."""
        near = [one for one in self.points if 0.75 < one / max(error, _LEAST) < 1.33]
        for one in near:
            del self.points[one]
        self.points[max(error, _LEAST)] = max(change, _LEAST)

    def __call__(self, error: float) -> float:
        if error <= _LEAST:
            return 0.0
        known = sorted(self.points)
        low = max((one for one in known if one <= error), default=None)
        high = min((one for one in known if one >= error), default=None)
        if low is None or high is None or low == high:
            near = low if high is None else high
            assert near is not None
            return self.points[near] * error / near
        share = (log(error) - log(low)) / (log(high) - log(low))
        return exp((1 - share) * log(self.points[low]) + share * log(self.points[high]))


def responses(replay: Replay, layers: Sequence[Layer], allowance: Allowance) -> dict[str, Response]:
    """The response of the outputs to noise of 15 % in the output of each layer in turn, by name.

    Where time runs out, layers between those measured are interpolated along the order of execution.
    """
    found: dict[str, float] = {}
    order = [one.name for one in layers]
    for at in _spread(len(order)):
        if allowance.passed and len(found) >= 2:
            break
        layer = layers[at]
        handle = layer.module.register_forward_hook(_noisy)
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(at)
                change = moved(replay.outputs(layer.module), replay.old).score
        finally:
            handle.remove()
        found[layer.name] = max(change, _LEAST)
    return {name: Response(NOISE**2, change) for name, change in _filled(order, found).items()}


def _noisy(_: nn.Module, args: object, y: Tensor) -> Tensor:
    channel = 1 if y.dim() > 2 and not isinstance(_, nn.Linear) else y.dim() - 1
    axes = [axis for axis in range(y.dim()) if axis != channel]
    size = y.detach().square().mean(axes, keepdim=True).sqrt()
    return y + NOISE * size * torch.randn_like(y)


def moved_by(
    replay: Replay,
    changed: Mapping[str, tuple[Tensor, Tensor | None]],
    layers: Mapping[str, Layer],
    allowance: Allowance,
) -> dict[str, float]:
    """The change of the outputs for each new weight and bias alone, put in the layer's place for a pass, by
    name."""
    found: dict[str, float] = {}
    for name, new in changed.items():
        if allowance.passed:
            break
        module = layers[name].module
        own = [one for one in (weight_of(module), module.bias) if isinstance(one, Tensor)]
        was = [one.detach().clone() for one in own]
        try:
            _copy(own, new)
            found[name] = moved(replay.outputs(module), replay.old).score
        finally:
            _copy(own, was)
    return found


@torch.no_grad()
def _copy(into: Sequence[Tensor], values: Sequence[Tensor | None]) -> None:
    for one, value in zip(into, values, strict=False):
        if value is not None:
            one.copy_(value)


def _spread(count: int) -> Iterable[int]:
    """All numbers below a count: first the ends, then the middles between those before."""
    seen = dict.fromkeys(at for at in (0, count - 1) if at >= 0)
    step = count
    while step > 1:
        step = -(-step // 2)
        seen |= dict.fromkeys(range(0, count, step))
        if step == 1:
            break
    return list(seen)


def _filled(order: Sequence[str], found: Mapping[str, float]) -> dict[str, float]:
    """Every layer's value, between known ones interpolated in logarithms."""
    known = [at for at, name in enumerate(order) if name in found]
    made: dict[str, float] = {}
    for at, name in enumerate(order):
        before = max((k for k in known if k <= at), default=known[0])
        after = min((k for k in known if k >= at), default=known[-1])
        share = 0.0 if after == before else (at - before) / (after - before)
        a, b = log(found[order[before]]), log(found[order[after]])
        made[name] = exp(a + share * (b - a))
    return made
