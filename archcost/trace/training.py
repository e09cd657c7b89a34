"""record_step: one training step as a Trace: forward, backward from every output, and the optimiser.

The backward pass is PyTorch's own, run on `meta`: frozen layers, gradient checkpointing and tensors that a
custom function saves are seen as they are.
"""

from __future__ import annotations

import contextlib
from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn
from torch._ops import OpOverload

from archcost.errors import ArchcostError, InputError, ModelError
from archcost.trace import inputs as inputs_
from archcost.trace.call import Call, Inputs
from archcost.trace.failure import Failed
from archcost.trace.graph import Args, Kwargs, Trace
from archcost.trace.modules import (
    ModuleTree,
    as_written,
    check_initialised,
    check_model,
    describe,
    describe_state,
    named_state,
    type_name,
    walk,
)
from archcost.trace.passes import moved, run_as_written
from archcost.trace.recording.composite import operators_as_on_cpu
from archcost.trace.recording.operators import Operator
from archcost.trace.recording.recorder import Recorder
from archcost.trace.recording.tensors import Returned, Written
from archcost.trace.recording.turns import my_turn
from archcost.trace.state import Untouched, deeper_recursion, paused_gc

if TYPE_CHECKING:
    from torch.optim import Optimizer

__all__ = ["MakeOptimizer", "Phase", "Step", "optimizer_named", "record_step"]

Phase = Literal["forward", "backward", "recomputed", "first update", "update"]
MakeOptimizer = Callable[[Iterable[nn.Parameter]], "Optimizer"]


@dataclass(frozen=True)
class Step:
    """A training step: its operations, those of the first update, which makes the state, among them."""

    trace: Trace
    phases: tuple[Phase, ...]
    """The phase of each operation; ``recomputed`` are forward operations run again in the backward pass."""
    gradients: frozenset[int]
    """The storages that hold gradients of parameters."""
    was_training: bool
    """Whether the model was in training mode already; otherwise `train()` was called on it."""


class _StepRecorder(Recorder):
    """A recorder that puts each operation of the backward pass into the module of its forward operation."""

    phase: Phase = "forward"

    def __init__(self, tree: ModuleTree, guard: Untouched, on_meta: bool) -> None:
        super().__init__(tree, guard, on_meta)
        self.phases: list[Phase] = []
        # Nodes of autograd are numbered in order: from each number on, those of which call.
        self._numbers, self._calls = [0], [0]

    def _mark(self) -> None:
        if self.phase == "forward":
            self._numbers.append(torch._C._autograd._get_sequence_nr())
            self._calls.append(self._stack[-1])

    def enter(self, module: nn.Module, args: Inputs) -> None:
        super().enter(module, args)
        self._mark()

    def _close(self) -> None:
        super()._close()
        self._mark()

    def _operate(
        self, func: OpOverload, operator: Operator, args: Args, kwargs: Kwargs, written: list[Written]
    ) -> Returned:
        node = torch._C._current_autograd_node() if self.phase == "backward" else None
        outside = node is not None and len(self._stack) == 1 and hasattr(node, "_sequence_nr")
        if outside and node is not None and "AccumulateGrad" not in node.name():
            self._stack.append(self._calls[bisect_right(self._numbers, node._sequence_nr()) - 1])
        try:
            return super()._operate(func, operator, args, kwargs, written)
        finally:
            if outside and len(self._stack) > 1:
                self._stack.pop()
            again = self.phase == "backward" and torch.is_grad_enabled()
            self.phases += ["recomputed" if again else self.phase] * (len(self.ops) - len(self.phases))


def optimizer_named(name: str | MakeOptimizer) -> MakeOptimizer:
    """The function that makes an optimiser: ``adamw``, ``sgd`` with momentum, any of ``torch.optim`` by name.

    Raises:
        InputError: there is no such optimiser.
    """
    if not isinstance(name, str):
        return name
    from functools import partial

    kinds = {
        key.lower(): kind
        for key, kind in vars(torch.optim).items()
        if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer) and key != "Optimizer"
    }
    if name.lower() not in kinds:
        raise InputError(f"optimizer: torch.optim has no {name!r}; take one of {', '.join(sorted(kinds))}")
    kind: Callable[..., Optimizer] = kinds[name.lower()]
    more = {"momentum": 0.9} if name.lower() in ("sgd", "rmsprop") else {}
    return partial(kind, lr=1e-3, **more)


def record_step(
    model: nn.Module,
    inputs: Inputs = None,
    *,
    input_size: inputs_.InputSize | None = None,
    dtype: inputs_.DTypes | None = None,
    optimizer: str | MakeOptimizer = "adamw",
) -> Step:
    """Trace a training step on `meta`: the gradient of the sum of every output, and an update of the weights.

    A model in eval mode is put into training mode meanwhile; it comes back as it was.

    Args:
        model: the model; frozen parameters are those that do not require a gradient.
        inputs: as in `archcost.analyze`.
        input_size: as in `archcost.analyze`; it or ``inputs`` must be given.
        dtype: as in `archcost.analyze`.
        optimizer: a name of ``torch.optim``, or a function that makes an optimiser of parameters.

    Raises:
        InputError: the inputs do not fit, or there is no such optimiser.
        ModelError: the model needs values, nothing in it requires a gradient, or its backward pass fails.
    """
    check_model(model)
    make = optimizer_named(optimizer)
    if inputs is None and input_size is None:
        raise InputError("a training step needs inputs or input_size=(batch, ...)")
    written = as_written(model)
    tree = walk(written)
    check_initialised(tree)
    with my_turn() as interrupts, torch.inference_mode(False), contextlib.ExitStack() as stack:
        modules, state = describe(tree), describe_state(tree)
        guard = stack.enter_context(Untouched(tree))
        stack.enter_context(paused_gc())
        stack.enter_context(deeper_recursion())
        stack.enter_context(operators_as_on_cpu())
        replacements = moved(tree, torch.device("meta"))
        if not (was_training := written.training):
            written.train()
        recorder = _StepRecorder(tree, guard, True)
        for name, kind, key, tensor in named_state(tree):
            full = f"{name}.{key}" if name else key
            recorder.name_state(replacements.get(id(tensor), tensor), kind, full)
        made: tuple[tuple[Inputs, ...], dict[str, Inputs]] = (
            Call.of(inputs).on("meta")
            if inputs is not None
            else inputs_.make(input_size or (), dtype, inputs_.dtype_of(tree), "meta")
        )
        for tensor in inputs_.tensors_in(made):
            recorder.name_state(tensor, "input", "input")
        described = recorder.describe(made)
        if replacements:
            guard.use(replacements)
        parameters = [one for one in written.parameters() if one.requires_grad]
        if not parameters:
            raise ModelError(f"{type_name(model)}: no parameter requires a gradient, so nothing is trained")
        for one in parameters:
            one.grad = None
        try:
            with run_as_written(tree), recorder.recording(), interrupts.let_through(), torch.enable_grad():
                outputs = written(*made[0], **made[1])
                recorder.phase = "backward"
                _backward(outputs, type_name(model))
                gradients = frozenset(
                    recorder._storage(one.grad) for one in parameters if one.grad is not None
                )
                update = make([one for one in parameters if one.grad is not None])
                for phase in ("first update", "update"):
                    recorder.phase = phase
                    update.step()
        except ArchcostError:
            raise
        except Exception as error:
            if recorder.phase != "forward":
                said = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
                raise ModelError(
                    f"{type_name(model)}: its {recorder.phase} failed on `meta`: {said}"
                ) from error
            failed = Failed(error, recorder, described)
            raise failed.explained(values_missing=True) from error
        trace = Trace(
            type_name(model), "meta", tuple(recorder.ops), tuple(recorder.calls), tuple(recorder.storages),
            modules, state, described, recorder.describe(outputs), None,
        )  # fmt: skip
        del outputs, update
        for one in parameters:
            one.grad = None
    return Step(trace, tuple(recorder.phases), gradients, was_training)


def _backward(outputs: Inputs, name: str) -> None:
    """The backward pass from every output that has a gradient, each with a gradient of its own shape."""
    roots = [one for one in inputs_.tensors_in(outputs) if one.requires_grad]
    if not roots:
        raise ModelError(f"{name}: no output depends on a parameter by a gradient, so nothing can be trained")
    torch.autograd.backward(roots, [torch.ones_like(one) for one in roots])
