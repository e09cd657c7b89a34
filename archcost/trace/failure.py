"""Errors of a failed forward pass: the module, the shapes it got, and the shapes it expects."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Coroutine, Iterator, Mapping

import torch
from torch import nn

from archcost.errors import ArchcostError, InputError, ModelError
from archcost.trace.call import Inputs
from archcost.trace.graph import Args, Failure, Kwargs, TensorRef, Trace
from archcost.trace.modules import type_name
from archcost.trace.recording.recorder import Recorder


class Failed(Exception):
    """A forward pass raised ``error``; ``call`` is the innermost module call that it came out of."""

    def __init__(self, error: Exception, recorder: Recorder, inputs: tuple[Args, Kwargs]) -> None:
        super().__init__(str(error))
        self.error = error
        self.inputs = inputs
        self.trace: Trace | None = None
        """The pass up to here."""
        self.recorder = recorder
        failed_in = recorder.failed_in
        self.call = recorder.calls[failed_in[1] if failed_in and failed_in[0] is error else 0]

    def end(self) -> Failure:
        """The place at which the pass ended."""
        failed_op = self.recorder.failed_op
        if failed_op is not None and failed_op[0] is self.error:
            storages = self.recorder.storages
            given = (
                ref for ref in failed_op[2] if storages[ref.storage].origin not in ("parameter", "buffer")
            )
            return Failure(self.call.module, tuple(given), failed_op[1], self._first_line())
        return Failure(self.call.module, self.call.inputs, "", self._first_line())

    def short(self) -> str:
        return f"{self._where()}: {self._first_line()}"

    def _first_line(self) -> str:
        lines = said_by(self.error).splitlines()
        return first_sentences(lines[0]) if lines else type(self.error).__name__

    def _where(self) -> str:
        module = self.recorder.tree.modules.get(self.call.module)
        label = type_name(module) if module is not None else "module"
        return f"{self.call.module!r} ({label})" if self.call.module else f"the model's own forward ({label})"

    @property
    def by_inputs(self) -> bool:
        """Whether the inputs are certainly the cause, so that a pass with real values would fail as well."""
        if isinstance(self.error, TypeError) and "forward()" in str(self.error):
            return True
        module = self.recorder.tree.modules.get(self.call.module)
        return module is not None and _expectation(module, self.call.inputs) is not None

    def explained(self, values_missing: bool) -> ArchcostError:
        error, name = self.error, self.call.module
        module = self.recorder.tree.modules.get(name)
        failed_op = self.recorder.failed_op
        from_operator = failed_op is not None and failed_op[0] is error
        got = " and ".join(_shape(ref) for ref in self.call.inputs)
        given = self.call.inputs
        asks = None if module is None else _expectation(module, given) or _expected_dtype(module, given)
        if asks is not None:
            return InputError(f"{self._where()} got an input of shape {got}; it expects {asks}")
        if values_missing and isinstance(error, (NotImplementedError, RuntimeError)) and "meta" in str(error):
            return ModelError(
                f"{self._where()} needs real values, which tensors on `meta` do not have: "
                f"{self._first_line()}. Load the model on a real device, and omit device= or name that device"
            )
        text = " ".join(said_by(error).split())
        if isinstance(error, RecursionError):
            return ModelError(f"{self._where()}: the forward pass recurses too deeply ({text})")
        if isinstance(error, TypeError) and "forward()" in text:
            return InputError(
                f"{self._where()}: {text}. Pass every argument in inputs: a tuple for positional arguments, "
                f"a dict for keyword arguments"
            )
        if from_operator and failed_op is not None:
            shapes = ", ".join(_shape(ref) for ref in failed_op[2])
            return InputError(f"{self._where()} failed in {failed_op[1]} on shapes {shapes}: {text}")
        by_inputs = isinstance(error, (RuntimeError, ValueError, IndexError, AssertionError))
        kind = InputError if by_inputs and text != _SILENT else ModelError
        on = f" on inputs of shape {got}" if got else ""
        return kind(f"{self._where()} raised {type(error).__name__}{on}: {text}")


def first_sentences(text: str, most: int = 160) -> str:
    """The first sentence, and further whole ones up to ``most`` characters, without the last full stop."""
    first, *others = re.split(r"(?<=[.!?])\s+(?=[A-Z])", text.strip())
    for other in others:
        if len(first) + 1 + len(other) > most:
            break
        first += f" {other}"
    return first.removesuffix(".")


def said_by(error: BaseException) -> str:
    """The message of an exception, without the traceback that TorchScript puts into it."""
    text = str(error).strip()
    if "TorchScript interpreter" not in text:
        return text
    return text.rpartition("Error:")[2].strip() or _SILENT


_SILENT = "TorchScript does not say why; pass the model as it was before torch.jit"


def check_computed(outputs: Inputs, model: nn.Module) -> None:
    """Raise ModelError for generators and coroutines, whose operations have not run and would not count."""
    later = _later(outputs)
    if later is not None:
        raise ModelError(
            f"the forward of {type_name(model)} returns a {later}, which computes nothing until it is "
            f"iterated: pass a module whose forward does that, as in `return list(self.model(x))`"
        )


def _later(value: Inputs) -> str | None:
    if isinstance(value, Coroutine):
        value.close()  # else Python warns that nobody awaited it
    if isinstance(value, (Iterator, AsyncIterator, Awaitable)):
        return type(value).__name__
    if not isinstance(value, (Mapping, tuple, list)):
        return None
    inside = value.values() if isinstance(value, Mapping) else value
    return next(filter(None, map(_later, inside)), None)


def _shape(ref: TensorRef) -> str:
    return "x".join(map(str, ref.shape)) or "scalar"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _is_layer(module: nn.Module) -> bool:
    """Whether a module derives from a PyTorch layer, so that ``in_channels`` has its usual meaning."""
    kinds = (kind.__module__ for kind in type(module).__mro__ if kind is not nn.Module)
    layers = ("torch.nn.modules.", "torch.ao.nn.")
    return any(kind.startswith(layers) and not kind.endswith(".container") for kind in kinds)


def _expected_dtype(module: nn.Module, inputs: tuple[TensorRef, ...]) -> str | None:
    """The dtype that a layer with weights expects, in words; None where the input has it."""
    multiplies = any(hasattr(module, name) for name in ("in_channels", "in_features", "input_size"))
    weight = next(iter(module._parameters.values()), None)
    if not inputs or not _is_layer(module) or not multiplies or weight is None:
        return None
    wanted, given = weight.dtype, inputs[0].dtype
    if wanted == given:
        return None
    converts = given.is_floating_point and wanted.is_floating_point
    convert = f"convert the model, as in model.to({given}), or " if converts else ""
    return f"{_name(wanted)}, the dtype of its weights, not {_name(given)}: {convert}pass {_name(wanted)}"


def _expectation(module: nn.Module, inputs: tuple[TensorRef, ...]) -> str | None:
    """The shape that a layer of a known kind expects, in words; None where the input has it."""
    if not inputs or not _is_layer(module):
        return None
    shape = inputs[0].shape
    named = (getattr(module, name, None) for name in ("in_channels", "num_features", "num_channels"))
    channels = next((number for number in named if isinstance(number, int)), None)
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
