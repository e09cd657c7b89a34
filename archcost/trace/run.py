"""One model and its inputs -> a Trace: on `meta` where nothing is computed, for real where it must be."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial
from typing import Any

import torch
from torch import nn

from archcost.errors import ArchcostError, InputError, ModelError
from archcost.trace import inputs as inputs_
from archcost.trace.failure import Failed, check_computed
from archcost.trace.graph import Trace
from archcost.trace.meta import fused_attention
from archcost.trace.modules import (
    ModuleTree,
    as_written,
    check_initialised,
    check_model,
    describe,
    describe_state,
    state_of,
    type_name,
    walk,
)
from archcost.trace.progress import Progress
from archcost.trace.recorder import Recorder
from archcost.trace.state import Untouched, deeper_recursion, paused_gc
from archcost.trace.turns import Interrupts, my_turn

__all__ = ["record"]


def record(
    model: nn.Module,
    inputs: Any = None,
    *,
    input_size: Any = None,
    dtype: Any = None,
    device: str | torch.device | None = None,
    progress: bool | None = None,
) -> Trace:
    """Run ``model`` once, record what it does, and leave it as it was.

    ``inputs``: a tuple is positional arguments, a dict is keyword arguments, anything else is the one
    argument. Without them, ``input_size`` (batch included) or what the model says of itself decides.
    ``device`` is where the pass runs: by default on `meta`, where nothing is computed, and on the
    model's own device when its code needs real values. Raises InputError when the inputs do not fit,
    ModelError when the model cannot be traced.
    """
    check_model(model)
    if inputs is not None and input_size is not None:
        raise InputError("give either inputs or input_size, not both")
    if device is not None:
        _check_device(device)
    # The caller's inference_mode would mark the copies made here, and autograd could not watch them.
    with my_turn() as interrupts, torch.inference_mode(False):
        return _record(model, inputs, input_size, dtype, device, progress, interrupts)


def _check_device(device: str | torch.device) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = (str(error).strip().splitlines() or ["unknown"])[0]
        raise InputError(f"device {str(device)!r} cannot be used here: {reason}") from error


def _record(
    model: nn.Module,
    inputs: Any,
    input_size: Any,
    dtype: Any,
    device: str | torch.device | None,
    progress: bool | None,
    interrupts: Interrupts,
) -> Trace:
    notes: list[str] = []
    model = _uncompiled(model, notes)
    tree = walk(model)
    check_initialised(tree)
    where = [str(device)] if device is not None else _devices(tree, notes)
    runs = list(_candidates(model, tree, inputs, input_size, dtype))
    first_error: ArchcostError | None = None
    for number, (make_inputs, assumed) in enumerate(runs):
        try:
            with Progress(len(tree.modules), f"tracing {type_name(model)}", progress) as bar:
                pass_ = _Pass(model, tree, make_inputs, interrupts, bar.step)
                trace = _on_first_device(pass_, where)
        except InputError as error:
            first_error = first_error or error
            if number + 1 < len(runs):
                continue
            if assumed is None:
                raise
            raise InputError(
                f"{first_error} ({runs[0][1]}; pass inputs or input_size=(batch, ...) to say another)"
            ) from first_error.__cause__
        if assumed is not None:
            notes.append(assumed)
            if number:
                notes.append(f"{number} other sizes did not fit, the first of them: {first_error}")
        return _with_notes(trace, notes)
    raise InputError(
        f"{type_name(model)}: no layer says what input it takes; pass inputs or input_size=(batch, ...)"
    )


def _with_notes(trace: Trace, notes: list[str]) -> Trace:
    return replace(trace, notes=(*notes, *trace.notes))


def _uncompiled(model: nn.Module, notes: list[str]) -> nn.Module:
    original = as_written(model)
    if original is not model:
        notes.append("the model is compiled: what is counted is the model as written, before compilation")
    return original


@contextlib.contextmanager
def _as_written(tree: ModuleTree) -> Iterator[None]:
    """Run every module as its code says: not compiled, not fused, not spread over devices."""
    fused = torch.backends.mha.get_fastpath_enabled()
    # In eval mode the fused paths skip the submodules, whose costs would be the parent's, and on `meta`
    # there are none.
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


def _devices(tree: ModuleTree, notes: list[str]) -> list[str]:
    """`meta` first, then the model's own device for code that needs values."""
    found = dict.fromkeys(str(tensor.device) for _, _, _, tensor in state_of(tree))
    own = next(iter(found), "cpu")
    # A model of which a part has no values cannot run for real.
    devices = ["meta"] if "meta" in found else ["meta", own]
    for name, module in tree.modules.items():
        if isinstance(module, torch.jit.ScriptModule):
            note = f"{name or 'the model'} is a ScriptModule: what it computes is counted under its own name"
            if any(True for _ in module.parameters()) or any(True for _ in module.buffers()):
                notes.append(f"{note}, and for real on {own}, since its weights stay inside it")
                return [own]
            notes.append(f"{note}, not under those of its parts; weights frozen into it are not seen")
            break
    return devices


MakeInputs = Callable[[str], tuple[tuple[Any, ...], dict[str, Any]]]


def _candidates(
    model: nn.Module, tree: ModuleTree, inputs: Any, input_size: Any, dtype: Any
) -> Iterator[tuple[MakeInputs, str | None]]:
    """Ways to make the inputs for a device, with what each assumes."""
    model_dtype = inputs_.dtype_of(tree)
    if inputs is not None:
        given = inputs_.as_call(inputs)
        yield (lambda device: inputs_.on_device(given, device)), None
    elif input_size is not None:
        yield (lambda device: inputs_.make(input_size, dtype, model_dtype, device)), None
    else:
        for size, kind, assumed in inputs_.guesses(model, tree):
            yield partial(inputs_.make, size, dtype or kind, model_dtype), assumed


@dataclass(frozen=True)
class _Pass:
    """One model and its inputs, ready to run."""

    model: nn.Module
    tree: ModuleTree
    make_inputs: MakeInputs
    interrupts: Interrupts
    step: Callable[[], None]


class _Autograd(Enum):
    """What autograd does meanwhile."""

    WATCHED = "it says what training keeps, and is given nothing to hold: storages die as in inference"
    HOLDING = "it says so and holds it, for a model that calls backward() in its forward"
    OFF = "it could not run with hooks"


def _on_first_device(run: _Pass, devices: list[str]) -> Trace:
    notes: list[str] = []
    for number, device in enumerate(devices):
        try:
            return _with_notes(_with_or_without_grad(run, device), notes)
        except Failed as failed:
            if number + 1 == len(devices) or failed.by_inputs:
                raise failed.explained(values_missing=device == "meta") from failed.error
            notes.append(
                f"ran for real on {devices[number + 1]}, because the model needs values that `meta` does "
                f"not have: {failed.short()}"
            )
    raise AssertionError("no device to run on")


def _with_or_without_grad(run: _Pass, device: str) -> Trace:
    try:
        return _run(run, device, _Autograd.WATCHED)
    except Failed as failed:
        text = str(failed.error).lower()
        if failed.recorder.wants_backward:
            how = _Autograd.HOLDING
            note = "the model calls backward() in its forward: what autograd holds for it is in the memory"
        elif isinstance(failed.error, RuntimeError) and any(hint in text for hint in _NOT_WITH_GRAD):
            how = _Autograd.OFF
            note = f"memory kept for backward is unknown: {failed.short()}"
        else:
            raise
    return _with_notes(_run(run, device, how), [note])


# What autograd says of writes it forbids, of inference tensors, and of torch.func beside its hooks.
_NOT_WITH_GRAD = ("in-place", "inplace", "inference tensor", "saved tensor hooks")


def _run(run: _Pass, device: str, autograd: _Autograd) -> Trace:
    """One pass on one device. Raises Failed when the model's code does."""
    model, tree = run.model, run.tree
    on_meta = torch.device(device).type == "meta"
    # What is reported of the model is read before a replacement stands in its place.
    modules, state = describe(tree), describe_state(tree)
    args, kwargs = run.make_inputs(device)
    with Untouched(tree) as guard, contextlib.ExitStack() as stack:
        recorder = Recorder(tree, guard, on_meta, run.step)
        replacements = _moved(tree, torch.device(device))
        for info in state:
            owner = tree.modules[info.owner]
            table = owner._parameters if info.kind == "parameter" else owner._buffers
            key = info.name[len(info.owner) + 1 :] if info.owner else info.name
            tensor = dict(table.items()).get(key)  # None for packed int8 weights
            if tensor is not None:
                recorder.name_state(replacements.get(id(tensor), tensor), info.kind, info.name)
        for tensor in _input_tensors((args, kwargs)):
            recorder.name_state(tensor, "input", "input")
        described = recorder.describe((args, kwargs))
        stack.enter_context(paused_gc())
        stack.enter_context(deeper_recursion())
        stack.enter_context(_as_written(tree))
        stack.enter_context(torch.set_grad_enabled(autograd is not _Autograd.OFF))
        if autograd is not _Autograd.OFF:
            stack.enter_context(_watched(recorder, holding=autograd is _Autograd.HOLDING))
        if on_meta:
            stack.enter_context(fused_attention())
        if replacements:
            guard.use(replacements)
        try:
            with recorder.recording(), run.interrupts.let_through():
                outputs = model(*args, **kwargs)
                check_computed(outputs, model)
        except ArchcostError:
            raise
        except Exception as error:
            raise Failed(error, recorder) from error
        if recorder.wants_backward and autograd is _Autograd.WATCHED:  # and the model caught our refusal
            raise Failed(_BackwardInside(), recorder)
        described_outputs = recorder.describe(outputs)
        del outputs
    return Trace(
        model_name=type_name(model),
        device=device,
        ops=tuple(recorder.ops),
        calls=tuple(recorder.calls),
        storages=tuple(recorder.storages),
        modules=modules,
        state=state,
        inputs=described,
        outputs=described_outputs,
        saved_known=autograd is not _Autograd.OFF,
        notes=tuple(_observations(recorder, tree)),
    )


def _observations(recorder: Recorder, tree: ModuleTree) -> Iterator[str]:
    strangers = dict.fromkeys(c.module for c in recorder.calls if "<" in c.module)
    for name in list(strangers)[:5]:
        if name not in tree.modules:
            yield f"{name} is called but not registered in the model, so its parameters are not the model's"


def _moved(tree: ModuleTree, device: torch.device) -> dict[int, torch.Tensor]:
    """Replacements on ``device`` for parameters and buffers; empty when all are there already."""
    moved: dict[int, torch.Tensor] = {}
    elsewhere = False
    for module, kind, _, tensor in state_of(tree):
        if isinstance(module, torch.jit.ScriptModule):
            if tensor.device.type != device.type:
                where = tree.names[id(module)][0] or "the model"
                raise ModelError(
                    f"{where} is a ScriptModule, which keeps its weights to itself on {tensor.device}: "
                    f"it cannot run on {device}; leave device out"
                )
            continue
        if id(tensor) in moved:
            continue
        if tensor.device.type == device.type:
            moved[id(tensor)] = tensor
            continue
        elsewhere = True
        if tensor.is_meta:
            raise ModelError(
                f"the model is on `meta` and has no values to run on {device}; load it there first"
            )
        copy = tensor.detach().to(device)
        if kind == "parameter":
            copy = _as_parameter(copy, tensor)
        elif tensor.requires_grad:
            copy.requires_grad_()
        if vars(tensor):
            vars(copy).update(vars(tensor))
        moved[id(tensor)] = copy
    return moved if elsewhere else {}


class _BackwardInside(RuntimeError):
    """The model's forward needs its own backward pass."""


def _watched(recorder: Recorder, holding: bool) -> Any:
    def keep(tensor: torch.Tensor) -> Any:
        recorder.saved(tensor)
        return tensor if holding else None

    def give_back(kept: Any) -> Any:
        if kept is None:
            recorder.wants_backward = True
            raise _BackwardInside("the model calls backward() in its forward")
        return kept

    return torch.autograd.graph.saved_tensors_hooks(keep, give_back)


def _input_tensors(value: Any) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        found.append(tensor)
        return tensor

    inputs_.map_tensors(value, note)
    return found


def _as_parameter(copy: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    kind = type(like)
    if issubclass(kind, nn.Parameter) and kind is not nn.Parameter:
        made: torch.Tensor = torch.Tensor._make_subclass(kind, copy, like.requires_grad)
        return made
    return nn.Parameter(copy, requires_grad=like.requires_grad)
