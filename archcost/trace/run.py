"""Record the Trace of a model: on `meta`, where nothing is computed, or with real values where needed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import nn

from archcost.errors import ArchcostError, InputError
from archcost.progress import Progress
from archcost.trace import inputs as inputs_
from archcost.trace.call import Call, Inputs
from archcost.trace.conventions import assumed_inputs
from archcost.trace.failure import Failed
from archcost.trace.graph import Trace
from archcost.trace.inputs import DTypes, InputSize
from archcost.trace.modules import (
    ModuleTree,
    as_written,
    check_initialised,
    check_model,
    state_of,
    type_name,
    walk,
)
from archcost.trace.passes import MakeInputs, Passes
from archcost.trace.recording.turns import Interrupts, my_turn

__all__ = ["record"]


def record(
    model: nn.Module,
    inputs: Inputs = None,
    *,
    input_size: InputSize | None = None,
    dtype: DTypes | None = None,
    device: str | torch.device | None = None,
    progress: bool | None = None,
) -> Trace:
    """Trace a forward pass without gradients, and one with them for the memory saved for backward.

    The model is left as it was.

    Args:
        model: the model, in the mode (train or eval) in which it is to be traced.
        inputs: a tuple is positional arguments, a dict is keyword arguments, anything else is the only
            argument.
        input_size: shapes to make inputs of, batch included: see `archcost.trace.inputs.make`. Without
            both, the conventions of its library or its first layer decide (`archcost.trace.conventions`).
        dtype: the dtype of the inputs that are made; by default that of the model's weights.
        device: where the passes run; by default `meta`, where nothing is computed, or the model's own
            device when its code needs real values.
        progress: whether to show a progress bar; None decides by the terminal.

    Raises:
        InputError: the inputs do not fit the model.
        ModelError: the model cannot be traced.
    """
    check_model(model)
    if inputs is not None and input_size is not None:
        raise InputError("inputs and input_size exclude each other: pass one of them")
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
    inputs: Inputs,
    input_size: InputSize | None,
    dtype: DTypes | None,
    device: str | torch.device | None,
    progress: bool | None,
    interrupts: Interrupts,
) -> Trace:
    notes: list[str] = []
    if (written := as_written(model)) is not model:
        notes.append("the model is compiled: the model as written, before compilation, is counted")
    model, tree = written, walk(written)
    check_initialised(tree)
    where = [str(device)] if device is not None else _devices(tree, notes)
    runs = list(_candidates(model, tree, inputs, input_size, dtype))
    first_error: ArchcostError | None = None
    for number, (make_inputs, assumed) in enumerate(runs):
        try:
            with Progress(2 * len(tree.modules), f"tracing {type_name(model)}", progress) as bar:
                passes = Passes(model, tree, make_inputs, interrupts, bar.step)
                trace = _on_first_device(passes, where)
        except InputError as error:
            first_error = first_error or error
            if number + 1 < len(runs):
                continue
            if assumed is None:
                raise
            raise InputError(
                f"{first_error} ({runs[0][1]}; pass inputs or input_size=(batch, ...) for another)"
            ).of(first_error) from first_error.__cause__
        if assumed is not None:
            notes.append(assumed)
            if number:
                notes.append(f"{number} other input sizes did not fit, the first with: {first_error}")
        return _with_notes(trace, notes)
    raise InputError(
        f"{type_name(model)}: the input size cannot be guessed from its layers; pass inputs or "
        f"input_size=(batch, ...)"
    )


def _with_notes(trace: Trace, notes: list[str]) -> Trace:
    return replace(trace, notes=(*notes, *trace.notes))


def _devices(tree: ModuleTree, notes: list[str]) -> list[str]:
    """`meta` first, then the model's own device for code that needs values."""
    found = dict.fromkeys(str(tensor.device) for _, _, _, tensor in state_of(tree))
    own = next(iter(found), "cpu")
    # A model of which a part has no values cannot run for real.
    devices = ["meta"] if "meta" in found else ["meta", own]
    for name, module in tree.modules.items():
        if isinstance(module, torch.jit.ScriptModule):
            note = f"{name or 'the model'} is a ScriptModule: its operations are counted under its own name"
            if any(True for _ in module.parameters()) or any(True for _ in module.buffers()):
                notes.append(f"{note}, and executed on {own}, since its weights cannot be moved")
                return [own]
            notes.append(f"{note}, not its submodules'; weights frozen into it are not counted")
            break
    return devices


def _candidates(
    model: nn.Module,
    tree: ModuleTree,
    inputs: Inputs,
    input_size: InputSize | None,
    dtype: DTypes | None,
) -> Iterator[tuple[MakeInputs, str | None]]:
    """Ways to make the inputs for a device, with what each assumes."""
    model_dtype = inputs_.dtype_of(tree)
    if inputs is not None:
        yield Call.of(inputs).on, None
    elif input_size is not None:
        yield (lambda device: inputs_.make(input_size, dtype, model_dtype, device)), None
    else:
        yield from assumed_inputs(model, tree, dtype, model_dtype)


def _on_first_device(passes: Passes, devices: list[str]) -> Trace:
    notes: list[str] = []
    for number, device in enumerate(devices):
        try:
            return _with_notes(passes.on(device), notes)
        except Failed as failed:
            if number + 1 == len(devices) or failed.by_inputs:
                raise failed.explained(values_missing=device == "meta").of(failed) from failed.error
            notes.append(
                f"executed on {devices[number + 1]}, because the model needs values that `meta` does "
                f"not have: {failed.short()}. Counts may depend on the values of the input"
            )
    raise AssertionError("no device to run on")
