"""Activation: the function behind a layer, as the kernels compute it."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING

from torch.nn import functional as F

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["IDENTITY", "RELU", "Activation"]

# Numbers of archcost::Activation in kernels/src/activation.h, by name.
KINDS = {
    "identity": 0,
    "clamp": 1,
    "silu": 2,
    "hardswish": 3,
    "hardsigmoid": 4,
    "sigmoid": 5,
    "gelu": 6,
    "gelu_tanh": 7,
    "leaky_relu": 8,
    "tanh": 9,
    "elu": 10,
    "mish": 11,
    "softplus": 12,
}


@dataclass(frozen=True)
class Activation:
    """An elementwise function: ``low`` and ``high`` bound a clamp, ``low`` is a slope or alpha."""

    kind: str
    low: float = -inf
    high: float = inf

    @property
    def number(self) -> int:
        return KINDS[self.kind]

    def __call__(self, x: Tensor) -> Tensor:
        """The same by PyTorch, for any dtype."""
        match self.kind:
            case "identity":
                return x
            case "clamp":
                return x.clamp(self.low, self.high)
            case "gelu_tanh":
                return F.gelu(x, approximate="tanh")
            case "leaky_relu":
                return F.leaky_relu(x, self.low)
            case "elu":
                return F.elu(x, self.low)
            case "sigmoid":
                return x.sigmoid()
            case "tanh":
                return x.tanh()
            case other:
                made: Tensor = getattr(F, other)(x)
                return made

    def __str__(self) -> str:
        if self.kind == "clamp":
            return {(0.0, inf): "ReLU", (0.0, 6.0): "ReLU6"}.get((self.low, self.high), "clamp")
        return self.kind


IDENTITY = Activation("identity")
RELU = Activation("clamp", 0.0)
