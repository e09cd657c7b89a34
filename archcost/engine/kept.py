"""Kept: times of the variants of layers in the store of measurements, where other models find them."""

from __future__ import annotations

import torch

from archcost.engine.activation import IDENTITY
from archcost.engine.graph import Node
from archcost.engine.operators import Convolution, InvertedResidual
from archcost.latency.store.fingerprint import fingerprint
from archcost.latency.store.kinds import STEP
from archcost.latency.store.measurement import Key, Measurement, spec_json
from archcost.latency.store.store import Store
from archcost.spec import ConvSpec

__all__ = ["Kept", "key_of"]


class Kept:
    """Times of variants: those known beforehand, and those taken now.

    Args:
        store: where times are looked up and kept; None: nowhere.
    """

    def __init__(self, store: Store | None = None) -> None:
        self._store = store
        self._new: list[Measurement] = []
        self.timed = self.read = 0
        """How many variants were timed now, and how many times the store had."""

    def find(self, node: Node, variant: str) -> float | None:
        """Seconds of a variant of a layer, as an earlier run measured them."""
        found = None if self._store is None else self._store.get(_stored(node, variant))
        self.read += found is not None
        return None if found is None else found.median_s

    def add(self, node: Node, variant: str, seconds: float) -> None:
        """Seconds just measured."""
        self.timed += 1
        key, device = _stored(node, variant), fingerprint()
        self._new.append(Measurement(key, str(device), seconds, None, 1, 0, clock="wall", torch=device.torch))

    def write(self) -> None:
        """Put what is new into the store."""
        if self._store is not None:
            self._store.put_many(self._new)
        self._new.clear()


def key_of(node: Node) -> str:
    """Layers with equal keys take equally long."""
    spec, fused = _described(node)
    return f"{spec_json(spec)} {fused}"


def _stored(node: Node, variant: str) -> Key:
    spec, fused = _described(node)
    path = f"{variant}, {fused}" if fused else variant
    return Key(fingerprint().hash, spec, "float32", path, "blocked", torch.get_num_threads(), STEP)


def _described(node: Node) -> tuple[ConvSpec, str]:
    """The convolution, for inverted residuals the depthwise one, and what is done beside it."""
    operator, images = node.operator, node.inputs[0].shape
    if isinstance(operator, InvertedResidual):
        spec = _spec(operator.depthwise, images)
        said = [
            f"{role} {layer.weight.shape[0 if role == 'projection' else 1]} {_fused(layer)}".rstrip()
            for role, layer in (("expansion", operator.expand), ("projection", operator.project))
            if layer is not None
        ]
        return spec, ", ".join([*filter(None, [_fused(operator.depthwise)]), *said])
    assert isinstance(operator, Convolution)
    return _spec(operator, images), _fused(operator)


def _spec(layer: Convolution, images: tuple[int, ...]) -> ConvSpec:
    outs, each, *taps = layer.weight.shape
    return ConvSpec(
        each * layer.groups,
        outs,
        tuple(taps),
        stride=layer.stride,
        padding=layer.padding,
        dilation=layer.dilation,
        groups=layer.groups,
        bias=layer.bias is not None,
        input_size=images[2:],
        batch=images[0],
    )


def _fused(layer: Convolution) -> str:
    return " + ".join(
        [
            *["scale"] * (layer.before is not None),
            *["gate"] * layer.gated,
            *["channels picked"] * (layer.sources is not None),
            *["addition"] * layer.adds,
            *[str(layer.activation)] * (layer.activation != IDENTITY),
        ]
    )
