"""The two passes behind a Trace: without gradients, and with them for the memory saved for backward."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import nn

from archcost.errors import ArchcostError, ModelError
from archcost.trace import inputs as inputs_
from archcost.trace.call import Call, Inputs
from archcost.trace.failure import Failed, check_computed
from archcost.trace.graph import Args, Argument, Kwargs, ModuleInfo, StateInfo, StateKind, Trace, refs
from archcost.trace.modules import ModuleTree, describe, describe_state, named_state, state_of, type_name
from archcost.trace.recording.composite import operators_as_on_cpu
from archcost.trace.recording.kept import KeptForBackward
from archcost.trace.recording.recorder import Recorder
from archcost.trace.recording.turns import Interrupts
from archcost.trace.state import Untouched, deeper_recursion, paused_gc

__all__ = ["MakeInputs", "Passes", "moved", "run_as_written"]

R = TypeVar("R", bound=Recorder)

MakeInputs = Callable[[str], Call | tuple[tuple[Inputs, ...], dict[str, Inputs]]]


@dataclass(frozen=True)
class Passes:
    """A model and a function that makes its inputs, ready to be traced on a device."""

    model: nn.Module
    tree: ModuleTree
    make_inputs: MakeInputs
    interrupts: Interrupts
    step: Callable[[], None]
    """Called after each module call, for the progress bar."""

    def on(self, device: str) -> Trace:
        """The Trace of the model on a device.

        Raises:
            Failed: the model's own code raised.
        """
        # Argument before weights are replaced by copies on the device.
        modules, state = describe(self.tree), describe_state(self.tree)
        notes: list[str] = []
        with Untouched(self.tree) as guard, contextlib.ExitStack() as stack:
            stack.enter_context(paused_gc())
            stack.enter_context(deeper_recursion())
            if torch.device(device).type == "meta":
                stack.enter_context(operators_as_on_cpu())
            replacements = moved(self.tree, torch.device(device))
            named = [
                (f"{name}.{key}" if name else key, kind, replacements.get(id(tensor), tensor))
                for name, kind, key, tensor in named_state(self.tree)
            ]
            stack.enter_context(torch.no_grad())
            ready = _Ready(self, device, guard, replacements, named)
            try:
                done = ready.inference(notes)
            except Failed as failed:
                end = _Done(failed.recorder, failed.inputs, None)
                failed.trace = replace(
                    self._trace(device, end, modules, state, None, notes), failed=failed.end()
                )
                raise
            guard.put_back()
            kept = ready.training(notes)
        return self._trace(device, done, modules, state, kept, notes)

    def _trace(
        self,
        device: str,
        done: _Done,
        modules: dict[str, ModuleInfo],
        state: tuple[StateInfo, ...],
        kept: dict[str, int] | None,
        notes: list[str],
    ) -> Trace:
        return Trace(
            model_name=type_name(self.model),
            device=device,
            ops=tuple(done.recorder.ops),
            calls=tuple(done.recorder.calls),
            storages=tuple(done.recorder.storages),
            modules=modules,
            state=state,
            inputs=done.inputs,
            outputs=done.outputs,
            kept_for_backward=kept,
            notes=(*notes, *_observations(done.recorder, self.tree)),
        )


@dataclass(frozen=True)
class _Done:
    """A finished pass: its recorder, and its inputs and outputs as TensorRefs."""

    recorder: Recorder
    inputs: tuple[Args, Kwargs]
    outputs: Argument

    @property
    def keeps_something(self) -> bool:
        """Whether a tensor that an operation made outlived the pass without being returned: a cache."""
        returned = {ref.storage for ref in refs(self.outputs)}
        return any(
            storage.origin == "operation" and storage.freed_after is None and index not in returned
            for index, storage in enumerate(self.recorder.storages)
        )


@dataclass(frozen=True)
class _Ready:
    """The passes of a model on one device, with its weights replaced by copies there."""

    passes: Passes
    device: str
    guard: Untouched
    replacements: dict[int, torch.Tensor]
    state: list[tuple[str, StateKind, torch.Tensor]]
    """Name, kind and tensor of each parameter and buffer that the passes see."""

    def inference(self, notes: list[str]) -> _Done:
        """The pass without gradients, in its steady state: run again where the first pass filled a cache."""
        done = self._first(notes)
        if done.keeps_something:
            # A cache, such as a table of position biases, is not made again.
            with contextlib.suppress(Failed):
                return self._run(self._recorder(Recorder))
        return done

    def _first(self, notes: list[str]) -> _Done:
        imported = len(sys.modules)
        try:
            done = self._run(self._recorder(Recorder))
            if len(sys.modules) == imported:
                return done
            # The frames of an import keep every tensor of the frames below them alive: the first pass would
            # seem to need more memory than the next.
        except Failed as failed:
            if _NEEDS_GRAD in str(failed.error):
                return self._with_gradients(notes)
            # The compiler, imported in the middle, was not told to stay away.
            if len(sys.modules) == imported:
                raise
        self.guard.put_back()
        return self._run(self._recorder(Recorder))

    def _with_gradients(self, notes: list[str]) -> _Done:
        self.guard.put_back()
        notes.append("the model takes gradients in its forward: memory includes the tensors autograd saves")
        with torch.enable_grad():
            return self._run(self._recorder(Recorder))

    def training(self, notes: list[str], holding: bool = False) -> dict[str, int] | None:
        """Bytes that autograd saves for backward, by module; None, with a note, where the pass fails."""
        recorder = self._recorder(KeptForBackward)
        failed: Failed | None = None
        try:
            with torch.enable_grad(), recorder.watching(holding):
                self._run(recorder)
        except Failed as error:
            failed = error
        if recorder.wants_backward:  # even if the model caught our refusal
            self.guard.put_back()
            return self.training(notes, holding=True)
        if failed is not None:
            notes.append(f"memory saved for backward is unknown: {failed.short()}")
            return None
        return recorder.bytes

    def _recorder(self, kind: type[R]) -> R:
        on_meta = torch.device(self.device).type == "meta"
        return kind(self.passes.tree, self.guard, on_meta, self.passes.step)

    def _run(self, recorder: Recorder) -> _Done:
        run = self.passes
        args, kwargs = run.make_inputs(self.device)
        for name, kind, tensor in self.state:
            recorder.name_state(tensor, kind, name)
        for tensor in inputs_.tensors_in((args, kwargs)):
            recorder.name_state(tensor, "input", "input")
        inputs = recorder.describe((args, kwargs))
        if self.replacements:
            self.guard.use(self.replacements)
        try:
            with run_as_written(run.tree), recorder.recording(), run.interrupts.let_through():
                outputs = run.model(*args, **kwargs)
                check_computed(outputs, run.model)
        except ArchcostError:
            raise
        except Exception as error:
            raise Failed(error, recorder, inputs) from error
        return _Done(recorder, inputs, recorder.describe(outputs))


# Autograd's message for a backward pass under no_grad.
_NEEDS_GRAD = "does not require grad"


@contextlib.contextmanager
def run_as_written(tree: ModuleTree) -> Iterator[None]:
    """Run every module as written: not compiled, not fused, not spread over devices."""
    fused = torch.backends.mha.get_fastpath_enabled()
    # In eval mode the fused attention paths bypass the submodules, whose costs would go to the parent; on
    # `meta` they do not exist.
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        for module in tree.modules.values():
            if isinstance(module, nn.DataParallel):
                module.device_ids = []
        with contextlib.ExitStack() as stack:
            # Importing the compiler takes seconds; what it has compiled has imported it already.
            if "torch._dynamo" in sys.modules:
                stack.enter_context(torch.compiler.set_stance("force_eager"))
                stack.enter_context(warnings.catch_warnings())
                warnings.filterwarnings(
                    "ignore", r"Using `torch.compile\(module\)` when there are global hooks"
                )
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


def _observations(recorder: Recorder, tree: ModuleTree) -> Iterator[str]:
    strangers = dict.fromkeys(c.module for c in recorder.calls if "<" in c.module)
    for name in list(strangers)[:5]:
        if name not in tree.modules:
            yield f"{name} is called but not registered in the model, so its parameters are not counted"


def moved(tree: ModuleTree, device: torch.device) -> dict[int, torch.Tensor]:
    """Copies on ``device`` of parameters and buffers, by id; empty when all are there already."""
    copies: dict[int, torch.Tensor] = {}
    elsewhere = False
    for module, kind, _, tensor in state_of(tree):
        if isinstance(module, torch.jit.ScriptModule):
            if tensor.device.type != device.type:
                where = tree.names[id(module)][0] or "the model"
                raise ModelError(
                    f"{where} is a ScriptModule, whose weights stay on {tensor.device}: "
                    f"it cannot run on {device}; omit device="
                )
            continue
        if id(tensor) in copies:
            continue
        if tensor.device.type == device.type:
            copies[id(tensor)] = tensor
            continue
        elsewhere = True
        if tensor.is_meta:
            raise ModelError(
                f"the model's weights are on `meta` and have no values to run on {device}; load them there"
            )
        copy = tensor.detach().to(device)
        if kind == "parameter":
            copy = _as_parameter(copy, tensor)
        elif tensor.requires_grad:
            copy.requires_grad_()
        if vars(tensor):
            vars(copy).update(vars(tensor))
        copies[id(tensor)] = copy
    return copies if elsewhere else {}


def _as_parameter(copy: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    kind = type(like)
    if type(copy) is not torch.Tensor and kind is nn.Parameter:
        return nn.Parameter(copy, requires_grad=like.requires_grad)
    # A third of the time that the constructor takes.
    made: torch.Tensor = torch.Tensor._make_subclass(kind, copy, like.requires_grad)
    return made
