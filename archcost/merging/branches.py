"""Branches: a module that sums convolutions of one input, read from a trace as a single convolution."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from archcost.errors import Refusal
from archcost.merging.affine import Affine, WeightAndBias, identity
from archcost.merging.chain import Activation, ChainStep, Kept
from archcost.merging.norms import is_norm, norm_problem
from archcost.nn.folding import NormState
from archcost.nn.like import ConvLike
from archcost.spec import ConvSpec
from archcost.surgery.refusals import is_convolution, why_not
from archcost.trace.dataflow import Dataflow
from archcost.trace.graph import ModuleCall, Op, TensorRef, refs

__all__ = ["Branches", "affine_of", "branches_of", "convolution_of"]

_NOTHING = ("aten.empty", "aten.detach")
_NORM_OPS = ("aten.native_batch_norm", "aten._native_batch_norm_legit_no_training", "aten.cudnn_batch_norm")
_ACTIVATIONS: dict[tuple[str, tuple[float, ...]], str] = {
    ("relu", ()): "ReLU",
    ("relu6", ()): "ReLU6",
    ("hardtanh", (0.0, 6.0)): "ReLU6",
    ("silu", ()): "SiLU",
    ("hardswish", ()): "Hardswish",
    ("hardsigmoid", ()): "Hardsigmoid",
    ("sigmoid", ()): "Sigmoid",
    ("tanh", ()): "Tanh",
    ("gelu", ()): "GELU",
    ("mish", ()): "Mish",
}


@dataclass(frozen=True)
class Branches:
    """The function of a module's call: a single convolution of its input, then steps that are kept."""

    whole: Affine
    """The sum of the branches as a single convolution."""
    tail: tuple[ChainStep, ...]
    """Modules behind the sum, by their names in the traced model, and activation functions."""
    convolutions: tuple[str, ...]
    """Names of the convolutions in order of execution, without those in the tail."""
    additions: int
    """Number of additions of branches."""


class _Stop(Exception):
    """The module cannot be read as branches; the message follows its name."""


def branches_of(
    flow: Dataflow, model: nn.Module, call: ModuleCall, *, weights: bool = False
) -> Branches | Refusal:
    """A call of a module read as branches; or why that is not possible, in words that follow its name.

    Args:
        weights: compute the merged weight too, in float64, from the modules in ``model``.
    """
    try:
        return _BranchReader(flow, model, call, weights).read()
    except _Stop as stop:
        return Refusal(str(stop))


def convolution_of(
    module: nn.Module, size: tuple[int, ...], weights: bool
) -> tuple[ConvSpec, WeightAndBias | None]:
    """The shapes of a convolution for an input size, and its weight and bias where asked for."""
    like = ConvLike(module)
    return like.spec(size), (like.weight, like.bias) if weights else None


def affine_of(norm: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """Factor and shift of each channel of a batch normalisation in eval mode, in float64::

    scale = gamma / sqrt(running_var + eps)
    shift = beta - running_mean * scale
    """
    mean, variance, eps, gamma, beta = NormState.of(norm)
    scale = (variance.detach().double() + eps).rsqrt()
    if gamma is not None:
        scale = scale * gamma.detach().double()
    shift = -mean.detach().double() * scale
    return scale, shift if beta is None else shift + beta.detach().double()


class _BranchReader:
    """Reads the operations of a call in order."""

    def __init__(self, flow: Dataflow, model: nn.Module, call: ModuleCall, weights: bool) -> None:
        self.flow, self.model, self.call, self.weights = flow, model, call, weights
        self.trace = flow.trace
        self.values: dict[TensorRef, Affine] = {}
        self.convolutions: list[str] = []
        self.additions = 0
        self.index = call.first_op

    def read(self) -> Branches:
        call = self.call
        outputs = list(refs(call.outputs))
        if len(call.inputs) != 1 or len(outputs) != 1:
            raise _Stop("does not have a single tensor as input and as output")
        x = call.inputs[0]
        if len(x.shape) not in (3, 4, 5):
            raise _Stop("has an input without spatial axes")
        self.values[x] = identity(x.shape[1], len(x.shape) - 2, self.weights)
        while self.index < call.end_op and self._is_linear():
            pass
        if self.index == call.end_op:
            if outputs[0] not in self.values:
                raise _Stop("returns something else than the sum of its branches")
            whole, tail = self.values[outputs[0]], list[ChainStep]()
        else:
            whole, tail = self._tail(outputs[0])
        self._check_outside(x, outputs[0])
        return Branches(whole, tuple(tail), tuple(self.convolutions), self.additions)

    def _is_linear(self) -> bool:
        """Read the next operation, or all of a layer; False where the linear part ends."""
        op = self.trace.ops[self.index]
        if op.base in _NOTHING:
            self.index += 1
            return True
        owner = self.trace.calls[op.call]
        module = self._module(owner)
        why = norm_problem(module) if module is not None and is_norm(module) else None
        if why is not None:
            raise _Stop(f"holds {owner.module}, which {why}")
        if owner is not self.call and module is not None and is_convolution(module):
            self._convolve(owner, module)
        elif op.base in _NORM_OPS:
            self._normalise(owner, module, op.args[0], op.outputs[0])
            self.index += 1
        elif type(module).__name__ == "FrozenBatchNorm2d":
            self._normalise(owner, module, owner.inputs[0], owner.outputs[0])
            self.index = owner.end_op
        elif op.base.removesuffix("_") in ("aten.add", "aten.sub", "aten.mul", "aten.div"):
            return self._calculate(op)
        else:
            return False
        return True

    def _convolve(self, owner: ModuleCall, module: nn.Module) -> None:
        why = why_not(module)
        if why is not None:
            raise _Stop(f"holds {owner.module}, and {why}")
        x = owner.inputs[0]
        spec, weights = convolution_of(module, tuple(x.shape[2:]), self.weights)
        if spec.transposed:
            raise _Stop(f"holds {owner.module}, which is transposed")
        found = self._value(x).convolved(spec, weights)
        if isinstance(found, Refusal):
            raise _Stop(f"holds {owner.module}, which {found}")
        self.values[owner.outputs[0]] = found
        self.convolutions.append(owner.module)
        self.index = owner.end_op

    def _normalise(self, owner: ModuleCall, module: nn.Module | None, x: TensorRef, y: TensorRef) -> None:
        why = "is a function" if module is None else norm_problem(module)
        if module is None or why is not None:
            raise _Stop(f"holds {owner.module or 'a batch normalisation'}, which {why}")
        numbers = affine_of(module) if self.weights else (None, None)
        self.values[y] = self._value(x).scaled(*numbers)

    def _calculate(self, op: Op) -> bool:
        """Read an addition, subtraction, multiplication or division; False where it is not linear."""
        name = op.base.removeprefix("aten.").removesuffix("_")
        if len(op.args) != 2 or set(op.kwargs) - {"alpha"} or op.args[0] not in self.values:
            return False
        one, other, alpha = self.values[op.args[0]], op.args[1], op.kwargs.get("alpha", 1)
        sign = (-1.0 if name == "sub" else 1.0) * alpha
        found: Affine | Refusal
        if isinstance(other, (int, float)):
            factor = {"mul": float(other), "div": 1 / other if other else 0.0}.get(name, 1.0)
            shift = sign * other if name in ("add", "sub") else 0.0
            found = self._scaled(one, factor, shift)
        elif name in ("mul", "div") or other not in self.values:
            return False
        else:
            second = self.values[other] if sign == 1 else self._scaled(self.values[other], sign, 0.0)
            found = one.plus(second)
            self.additions += 1
        if isinstance(found, Refusal):
            raise _Stop(found.reason)
        self._put(op, found)
        self.index += 1
        return True

    def _scaled(self, one: Affine, factor: float, shift: float) -> Affine:
        if one.kernel is None:
            return one.scaled(None, None, bool(shift))
        scale = one.kernel.new_full((one.out_channels,), factor)
        return one.scaled(scale, scale.new_full(scale.shape, shift) if shift else None, bool(shift))

    def _put(self, op: Op, value: Affine) -> None:
        result = op.outputs[0]
        if op.writes and result.storage in op.writes:
            for ref in [ref for ref in self.values if ref.storage == result.storage]:
                del self.values[ref]
        self.values[result] = value

    def _tail(self, output: TensorRef) -> tuple[Affine, list[ChainStep]]:
        """The sum of branches that all later operations depend on, and those operations as steps."""
        steps: list[ChainStep] = []
        whole: Affine | None = None
        current: TensorRef | None = None
        while self.index < self.call.end_op:
            op = self.trace.ops[self.index]
            if op.base in _NOTHING:
                self.index += 1
                continue
            wanted = tuple(self.values) if current is None else (current,)
            inner = self._module_call(op, wanted)
            taken = inner.inputs if inner is not None else [ref for ref in op.tensors() if ref in wanted]
            given = taken[0] if taken else None
            kind = None if inner is not None else self._activation(op)
            if given is None or (inner is None and kind is None):
                what, name = op.base.removeprefix("aten."), self.trace.module_of(op)
                raise _Stop(f"does more than sum its branches: {what} in {name or 'it'}")
            if whole is None:
                whole = self.values[given]
            if inner is not None:
                steps.append(Kept(inner.module))
                current, self.index = next(refs(inner.outputs)), inner.end_op
            elif kind is not None:
                steps.append(Activation(kind))
                current, self.index = op.outputs[0], self.index + 1
        if current != output or whole is None:
            raise _Stop("returns something else than the operations behind the sum of its branches")
        return whole, steps

    def _module_call(self, op: Op, wanted: tuple[TensorRef, ...]) -> ModuleCall | None:
        """The outermost call inside this one that begins here, with one of these tensors as its only
        input."""
        found, call = None, self.trace.calls[op.call]
        while call.index != self.call.index and call.parent is not None:
            one_out = len(list(refs(call.outputs))) == 1
            if len(call.inputs) == 1 and call.inputs[0] in wanted and call.first_op == self.index and one_out:
                found = call if self._module(call) is not None else found
            call = self.trace.calls[call.parent]
        return found

    def _activation(self, op: Op) -> str | None:
        numbers = tuple(float(a) if isinstance(a, (int, float)) else a for a in op.args[1:])
        if op.kwargs:
            return None
        return _ACTIVATIONS.get((op.base.removeprefix("aten.").removesuffix("_"), numbers))

    def _value(self, ref: TensorRef) -> Affine:
        if ref not in self.values:
            raise _Stop("does more than sum convolutions of its input")
        return self.values[ref]

    def _module(self, call: ModuleCall) -> nn.Module | None:
        try:
            return self.model.get_submodule(call.module)
        except AttributeError:
            return None

    def _check_outside(self, x: TensorRef, output: TensorRef) -> None:
        """Refuse a module whose intermediate tensors are read outside."""
        first, end = self.call.first_op, self.call.end_op
        written = set(self._written(first, end))
        if x.storage in written:
            raise _Stop("writes into its input")
        inner = written - {output.storage}
        for storage in inner:
            for op in self.flow.takers(storage, end - 1)[-1:]:
                raise _Stop(
                    f"has an intermediate tensor that {self.trace.module_of(op) or 'the model'} reads"
                )
        if inner & self.flow.returned:
            raise _Stop("has an intermediate tensor that the model returns")

    def _written(self, first: int, end: int) -> Iterator[int]:
        for op in self.trace.ops[first:end]:
            yield from op.writes
