"""One model and its inputs -> a Trace: on `meta` where nothing is computed, for real where it must be."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from archcost.errors import ArchcostError, InputError, ModelError
from archcost.trace import inputs as inputs_
from archcost.trace.graph import TensorRef, Trace
from archcost.trace.meta import fused_attention
from archcost.trace.modules import (
    ModuleTree,
    check_initialised,
    describe,
    describe_state,
    state_of,
    type_name,
    walk,
)
from archcost.trace.progress import Progress
from archcost.trace.recorder import Recorder
from archcost.trace.state import Untouched, deeper_recursion

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
    if not isinstance(model, nn.Module):
        hint = "; call the class first" if isinstance(model, type) else ""
        raise ModelError(f"expected a torch.nn.Module, got {type(model).__name__}{hint}")
    if inputs is not None and input_size is not None:
        raise InputError("give either inputs or input_size, not both")
    notes: list[str] = []
    model = _uncompiled(model, notes)
    tree = walk(model)
    check_initialised(tree)
    where = [str(device)] if device is not None else _devices(tree)
    runs = list(_candidates(model, tree, inputs, input_size, dtype))
    first_error: ArchcostError | None = None
    for number, (make_inputs, assumed) in enumerate(runs):
        try:
            with Progress(len(tree.modules), f"tracing {type_name(model)}", progress) as bar:
                trace = _on_first_device(model, tree, make_inputs, where, bar.step)
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
    original = getattr(model, "_orig_mod", None)
    if isinstance(original, nn.Module) and type(model).__name__ == "OptimizedModule":
        notes.append("the model is compiled: what is counted is the model as written, before compilation")
        return original
    return model


@contextlib.contextmanager
def _eagerly(tree: ModuleTree) -> Iterator[None]:
    """Run compiled submodules as written; torch.compile is imported only where a model uses it."""
    compiled = any(
        type(m).__name__ == "OptimizedModule" or getattr(m, "_compiled_call_impl", None)
        for m in tree.modules.values()
    )
    if not compiled:
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


def _devices(tree: ModuleTree) -> list[str]:
    """`meta` first, then the model's own device for code that needs values."""
    for _, _, _, tensor in state_of(tree):
        if tensor.device.type != "meta":
            return ["meta", str(tensor.device)]
        return ["meta"]
    return ["meta", "cpu"]


MakeInputs = Callable[[str], tuple[tuple[Any, ...], dict[str, Any]]]


def _candidates(
    model: nn.Module, tree: ModuleTree, inputs: Any, input_size: Any, dtype: Any
) -> Iterator[tuple[MakeInputs, str | None]]:
    """Ways to make the inputs for a device, with what each assumes."""
    model_dtype = inputs_.dtype_of(tree)
    if inputs is not None:
        given = inputs_.as_call(inputs)
        yield (lambda device: inputs_.map_tensors(given, lambda tensor: tensor.to(device))), None
    elif input_size is not None:
        yield (lambda device: inputs_.make(input_size, dtype, model_dtype, device)), None
    else:
        for size, kind, assumed in inputs_.guesses(model, tree):
            yield partial(inputs_.make, size, dtype or kind, model_dtype), assumed


def _on_first_device(
    model: nn.Module, tree: ModuleTree, make_inputs: MakeInputs, devices: list[str], step: Callable[[], None]
) -> Trace:
    notes: list[str] = []
    for number, device in enumerate(devices):
        try:
            return _with_notes(_with_or_without_grad(model, tree, make_inputs, device, step), notes)
        except _Failed as failed:
            if number + 1 == len(devices):
                raise failed.explained(values_missing=device == "meta") from failed.error
            notes.append(
                f"ran for real on {devices[number + 1]}, because the model needs values that `meta` does "
                f"not have: {failed.short()}"
            )
    raise AssertionError("no device to run on")


def _with_or_without_grad(
    model: nn.Module, tree: ModuleTree, make_inputs: MakeInputs, device: str, step: Callable[[], None]
) -> Trace:
    # With grad enabled autograd itself says what training keeps; its hooks give it nothing to hold, so
    # storages still die as they do in inference.
    try:
        return _run(model, tree, make_inputs, device, True, step)
    except _Failed as failed:
        text = str(failed.error).lower()
        if not isinstance(failed.error, RuntimeError) or not ("in-place" in text or "inplace" in text):
            raise
        trace = _run(model, tree, make_inputs, device, False, step)
        note = "memory kept for backward is unknown: the forward pass writes in place where autograd forbids"
        return _with_notes(trace, [note])


class _Failed(Exception):
    """A pass did not come through; knows where."""

    def __init__(self, error: Exception, recorder: Recorder) -> None:
        super().__init__(str(error))
        self.error = error
        self.recorder = recorder
        failed_in = recorder.failed_in
        self.call = recorder.calls[failed_in[1] if failed_in and failed_in[0] is error else 0]

    def short(self) -> str:
        first_line = (str(self.error).strip().splitlines() or [type(self.error).__name__])[0]
        return f"{self._where()}: {first_line[:160]}"

    def _where(self) -> str:
        module = self.recorder.tree.modules.get(self.call.module)
        label = type_name(module) if module is not None else "module"
        return f"{self.call.module!r} ({label})" if self.call.module else f"the model's own forward ({label})"

    def explained(self, values_missing: bool) -> ArchcostError:
        error, name = self.error, self.call.module
        module = self.recorder.tree.modules.get(name)
        failed_op = self.recorder.failed_op
        from_operator = failed_op is not None and failed_op[0] is error
        got = " and ".join(_shape(ref) for ref in self.call.inputs)
        expected = _expectation(module, self.call.inputs) if module is not None else None
        if expected is not None:
            return InputError(f"{self._where()} got an input of shape {got}; it expects {expected}")
        if values_missing and isinstance(error, (NotImplementedError, RuntimeError)) and "meta" in str(error):
            return ModelError(
                f"{self._where()} needs real values, but the model is on `meta`: {self.short()}. "
                f"Load it on a real device first"
            )
        text = " ".join(str(error).split())
        if isinstance(error, RecursionError):
            return ModelError(f"{self._where()}: the forward pass recurses too deeply ({text})")
        if isinstance(error, TypeError) and "forward()" in text:
            return InputError(
                f"{self._where()}: {text}. Pass every argument in inputs: a tuple for positional ones, "
                f"a dict for keyword ones"
            )
        if from_operator and failed_op is not None:
            shapes = ", ".join(_shape(ref) for ref in failed_op[2])
            return InputError(f"{self._where()} failed in {failed_op[1]} on shapes {shapes}: {text}")
        kind = InputError if isinstance(error, (RuntimeError, ValueError, IndexError)) else ModelError
        on = f" on inputs of shape {got}" if got else ""
        return kind(f"{self._where()} raised {type(error).__name__}{on}: {text}")


def _shape(ref: TensorRef) -> str:
    return "x".join(map(str, ref.shape)) or "scalar"


def _expectation(module: nn.Module, inputs: tuple[TensorRef, ...]) -> str | None:
    """What a layer of a known kind asks of its input, when the input does not give it."""
    if not inputs:
        return None
    shape = inputs[0].shape
    channels = getattr(module, "in_channels", None) or getattr(module, "num_features", None)
    if isinstance(channels, int):
        kernel = getattr(module, "kernel_size", None)
        axes = len(kernel) if isinstance(kernel, tuple) else max(len(shape) - 2, 0)
        batched = len(shape) == axes + 2
        at = 1 if batched or not isinstance(kernel, tuple) else 0
        if len(shape) < axes + 1 or len(shape) > axes + 2:
            return f"{axes + 2} dimensions, (batch, {channels}{', size' * axes})"
        if len(shape) > at and shape[at] != channels:
            return f"{channels} channels in dimension {at}"
        return None
    features = getattr(module, "in_features", None) or getattr(module, "input_size", None)
    if isinstance(features, int) and shape and shape[-1] != features:
        return f"{features} features in the last dimension"
    normalized = getattr(module, "normalized_shape", None)
    if isinstance(normalized, tuple) and shape[-len(normalized) :] != normalized:
        return f"a shape that ends in {'x'.join(map(str, normalized))}"
    return None


def _run(
    model: nn.Module,
    tree: ModuleTree,
    make_inputs: MakeInputs,
    device: str,
    grad: bool,
    step: Callable[[], None],
) -> Trace:
    """One pass on one device. Raises _Failed when the model's code does."""
    on_meta = torch.device(device).type == "meta"
    # What is reported of the model is read before a replacement stands in its place.
    modules, state = describe(tree), describe_state(tree)
    args, kwargs = make_inputs(device)
    with Untouched(tree) as guard, contextlib.ExitStack() as stack:
        recorder = Recorder(tree, guard, on_meta, step)
        replacements = _moved(tree, torch.device(device))
        for info in state:
            owner = tree.modules[info.owner]
            table = owner._parameters if info.kind == "parameter" else owner._buffers
            key = info.name[len(info.owner) + 1 :] if info.owner else info.name
            tensor = table.get(key)
            if tensor is not None:
                recorder.name_state(replacements.get(id(tensor), tensor), info.kind, info.name)
        for tensor in _input_tensors((args, kwargs)):
            recorder.name_state(tensor, "input", "input")
        described = recorder.describe((args, kwargs))
        stack.enter_context(_paused_gc())
        stack.enter_context(deeper_recursion())
        stack.enter_context(_eagerly(tree))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.set_grad_enabled(grad))
        stack.enter_context(torch.autograd.graph.saved_tensors_hooks(recorder.saved, _no_backward))
        if on_meta:
            stack.enter_context(fused_attention())
        if replacements:
            guard.use(replacements)
        try:
            with recorder.recording():
                outputs = model(*args, **kwargs)
        except ArchcostError:
            raise
        except Exception as error:
            raise _Failed(error, recorder) from error
        described_outputs = recorder.describe(_plain(outputs))
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
        saved_known=grad,
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
                raise _ScriptStays()
            moved[id(tensor)] = tensor
            continue
        if id(tensor) in moved:
            continue
        if tensor.device.type == device.type:
            moved[id(tensor)] = tensor
            continue
        elsewhere = True
        copy = tensor.detach().to(device)
        if kind == "parameter":
            copy = nn.Parameter(copy, requires_grad=tensor.requires_grad)
        elif tensor.requires_grad:
            copy.requires_grad_()
        if vars(tensor):
            vars(copy).update(vars(tensor))
        moved[id(tensor)] = copy
    return moved if elsewhere else {}


class _ScriptStays(NotImplementedError):
    def __init__(self) -> None:
        super().__init__("a ScriptModule keeps its weights inside the interpreter")


def _no_backward(_: Any) -> Any:
    raise ModelError("the model calls backward() inside its forward, which a trace cannot follow")


def _input_tensors(value: Any) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        found.append(tensor)
        return tensor

    inputs_.map_tensors(value, note)
    return found


def _plain(value: Any) -> Any:
    """Outputs as tuples, lists and dicts, whatever class holds them."""
    if isinstance(value, (torch.Tensor, str, int, float, bool, type(None))):
        return value
    found = _input_tensors(value)
    return tuple(found) if not isinstance(value, (dict, list, tuple)) else value


@contextlib.contextmanager
def _paused_gc() -> Iterator[None]:
    """No cyclic collection during the pass: storage lifetimes come from the model's code alone."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
