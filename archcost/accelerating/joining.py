"""Which convolutions of a program may run as one: those that read the same through the same window."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from archcost.accelerating.choosing import Allowed, Choice, Measured, Network
from archcost.accelerating.layers import Layer
from archcost.accelerating.program import Step
from archcost.paths.registry import available, get

__all__ = ["Joined", "joined"]

Joined = Mapping[str, tuple[tuple[int, ...], ...]]
"""By program, groups of its steps."""

_PATH = "im2col-tiled"
# One whose best path is another joins where this one, by itself, takes at most so many times as long.
_NEAR = 1.5


def joined(
    network: Network, measured: Measured, chosen: Mapping[str, Choice], allowed: Allowed
) -> tuple[Joined, dict[str, Choice]]:
    """The groups, and the choices with the path that all of a group have."""
    layers = {layer.name: layer for layer in network.layers}
    groups: dict[str, tuple[tuple[int, ...], ...]] = {}
    changed = dict(chosen)
    for name, steps in network.programs.items():
        alike: dict[Any, list[tuple[int, Layer]]] = defaultdict(list)
        # The last step is left out: what a program gives is no slice of another tensor.
        for number, step in enumerate(steps[:-1], start=1):
            layer = layers.get(".".join((name, *step.keys)))
            if layer is not None and _may_join(layer, step, chosen[layer.name], measured, allowed):
                alike[_what(layer, step, chosen[layer.name])].append((number, layer))
        several = [members for members in alike.values() if len(members) > 1]
        if several:
            groups[name] = tuple(tuple(number for number, _ in members) for members in several)
        for _, layer in (member for members in several for member in members):
            seconds = measured[layer.name][_PATH, chosen[layer.name].reads].seconds
            changed[layer.name] = chosen[layer.name]._replace(path=_PATH, seconds=seconds)
    return groups, changed


def _may_join(layer: Layer, step: Step, choice: Choice, measured: Measured, allowed: Allowed) -> bool:
    spec = layer.spec
    if step.adds is not None or spec.groups != 1 or spec.transposed or layer.x.dim() != 4:
        return False
    if _PATH not in available() or get(_PATH).implementation(spec, layer.task.dtype) != "compiled":
        return False
    took = measured.get(layer.name, {}).get((_PATH, choice.reads))
    near = took is not None and took.seconds <= _NEAR * choice.seconds
    return near and spec.padding_mode == "zeros" and allowed(layer, _PATH)


def _what(layer: Layer, step: Step, choice: Choice) -> tuple[Any, ...]:
    """What all of a group have in common."""
    spec = replace(layer.spec, out_channels=1, bias=True)
    return step.reads, step.clamp, spec, layer.task.dtype, layer.sizes, choice.reads, choice.writes
