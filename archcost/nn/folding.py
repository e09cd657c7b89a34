"""Fused blocks of convolution, batch normalisation and ReLU: finding them, and folding their weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, NamedTuple

from archcost.trace.dataflow import Dataflow
from archcost.trace.graph import Op, TensorRef, Trace

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["FusedBlock", "NormState", "folded", "fused_blocks", "is_norm", "limits_of"]

_NORM_OPS = ("aten.native_batch_norm", "aten._native_batch_norm_legit_no_training")
_NORM_TYPES = ("BatchNorm1d", "BatchNorm2d", "BatchNorm3d")
_CLAMP_TYPES = ("ReLU", "ReLU6", "Hardtanh")


@dataclass(frozen=True)
class FusedBlock:
    """A convolution and the operations after it that can be fused with it, in all of its calls."""

    conv: str
    """The name of the convolution."""
    batch_norm: str | None
    """The name of a BatchNorm1d, 2d or 3d that uses its running statistics."""
    clamp: tuple[float, float] | None
    """The limits of the ReLU, ReLU6 or Hardtanh after that: (0, inf) for ReLU."""
    activation: str | None
    """The module that clamps, where all its calls are in this block; None where it is shared with other
    layers, or a function that the parent calls. It may stay where it is: clamping twice is clamping once."""


class NormState(NamedTuple):
    """The numbers of a batch normalisation."""

    mean: torch.Tensor
    """``running_mean``."""
    variance: torch.Tensor
    """``running_var``."""
    eps: float
    gamma: torch.Tensor | None
    """``weight``."""
    beta: torch.Tensor | None
    """``bias``."""

    @classmethod
    def of(cls, norm: nn.Module) -> NormState:
        """The numbers of a module that has running statistics."""
        return cls(
            *(getattr(norm, name) for name in ("running_mean", "running_var", "eps", "weight", "bias"))
        )


def folded(
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    norm: nn.Module,
    *,
    transposed: bool = False,
    groups: int = 1,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and bias of a convolution with a batch normalisation folded into it; neither is changed.

    With s = gamma / sqrt(running_var + eps), one number an output channel::

        weight' = weight * s
        bias'   = (bias - running_mean) * s + beta

    in float64, rounded once to the dtype of the weight. ``norm`` (see `NormState`) is taken to be in eval
    mode.
    """
    import torch

    with torch.no_grad():
        mean, variance, eps, gamma, beta = NormState.of(norm)
        scale = (variance.double() + eps).rsqrt()
        if gamma is not None:
            scale = scale * gamma.double()
        shift = -mean.double() if bias is None else bias.double() - mean.double()
        shift = shift * scale
        if beta is not None:
            shift = shift + beta.double()
        exact = weight.double()
        if transposed:  # (in, out / groups, ...): the output channels of each group lie in the second axis
            shape = (groups, -1, *weight.shape[1:])
            exact = exact.reshape(shape) * scale.reshape(groups, 1, -1, *(1,) * (weight.dim() - 2))
            exact = exact.reshape(weight.shape)
        else:
            exact = exact * scale.reshape(-1, *(1,) * (weight.dim() - 1))
        return exact.to(weight.dtype), shift.to(weight.dtype)


def fused_blocks(trace: Trace) -> dict[str, FusedBlock]:
    """Every fused block of a pass of a model in eval mode, by its convolution's name."""
    flow = Dataflow(trace)
    found = (
        _block(flow, conv, ops)
        for conv, ops in flow.convolutions().items()
        if conv in trace.modules and flow.makes_one_a_call(conv, ops)
    )
    return {block.conv: block for block in found if block is not None}


def _block(flow: Dataflow, conv: str, ops: Sequence[Op]) -> FusedBlock | None:
    norms = [_next(flow, op, is_norm) for op in ops]
    batch_norm = _owner(flow, norms, _NORM_TYPES)
    if batch_norm is not None:
        ops = [op for op in norms if op is not None]
    clamping = [_next(flow, op, lambda one: limits_of(one) is not None) for op in ops]
    limits = {None if op is None else limits_of(op) for op in clamping}
    clamp = limits.pop() if len(limits) == 1 else None
    if batch_norm is None and clamp is None:
        return None
    return FusedBlock(conv, batch_norm, clamp, _owner(flow, clamping, _CLAMP_TYPES) if clamp else None)


def _next(flow: Dataflow, op: Op, wanted: Callable[[Op], bool]) -> Op | None:
    """The only successor of ``op``, if it takes the whole result and is wanted."""
    result = op.outputs[0]
    others = flow.takers(result.storage, op.index)
    if not others or not wanted(others[0]):
        return None
    following = others[0]
    taken = following.args[0] if following.args else None
    if not isinstance(taken, TensorRef) or taken != result:
        return None
    if result.storage in following.writes:  # in place: everyone after it sees what it wrote
        return following
    return following if len(others) == 1 and result.storage not in flow.returned else None


def _owner(flow: Dataflow, ops: list[Op | None], types: tuple[str, ...]) -> str | None:
    """The module that made all of these operations and is never called for another."""
    names = {None if op is None else flow.module_of(op) for op in ops}
    name = names.pop() if len(names) == 1 else None
    info = None if name is None else flow.trace.modules.get(name)
    if name is None or info is None or info.type_name not in types:
        return None
    return name if len(flow.calls(name)) == len(ops) else None


def is_norm(op: Op) -> bool:
    """Whether the operation is a batch normalisation by running statistics."""
    return op.base in _NORM_OPS and (op.base != _NORM_OPS[0] or op.args[5] is False)


def limits_of(op: Op) -> tuple[float, float] | None:
    """The limits that an operation clamps to; None for other operations."""
    name = op.base.removesuffix("_")
    if name == "aten.relu":
        return (0.0, inf)
    if name == "aten.relu6":
        return (0.0, 6.0)
    if name not in ("aten.hardtanh", "aten.clamp"):
        return None
    given = dict(zip(("low", "high"), op.args[1:], strict=False))
    low = given.get("low", op.kwargs.get("min_val", op.kwargs.get("min", -1.0)))
    high = given.get("high", op.kwargs.get("max_val", op.kwargs.get("max", 1.0)))
    if name == "aten.clamp":
        low = given.get("low", op.kwargs.get("min"))
        high = given.get("high", op.kwargs.get("max"))
        low, high = -inf if low is None else low, inf if high is None else high
    numbers = all(isinstance(limit, (int, float)) for limit in (low, high))
    return (float(low), float(high)) if numbers else None
