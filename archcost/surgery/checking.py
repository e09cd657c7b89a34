"""A new layer compared with the old one, on an input recorded in a real forward pass."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import nn

from archcost.errors import ArchcostError, RewriteError, one_line
from archcost.surgery.outputs import error_of
from archcost.trace.call import Call, Inputs
from archcost.trace.graph import Args, Kwargs
from archcost.trace.modules import is_training, walk
from archcost.trace.state import Untouched

__all__ = ["Check", "checked", "evaluating", "record_inputs"]


Output: TypeAlias = object
"""Whatever a layer returns."""


@dataclass(frozen=True)
class Check:
    """The comparison of a new layer with the old one."""

    tolerance: float
    """Largest accepted error."""
    error: float | None
    """max |new - old| / max |old| of the outputs; None where they could not be compared."""
    problem: str | None
    """The difference, with its numbers; None where there is none."""

    @property
    def ok(self) -> bool:
        return self.problem is None


def record_inputs(model: nn.Module, inputs: Inputs, names: Iterable[str]) -> dict[str, Call]:
    """The arguments of each module's first call in a forward pass in eval mode without gradients, cloned.

    Flags, buffers, hooks and random state are restored, also after an exception.

    Args:
        inputs: inputs of the model, as `Call.of` takes them.
        names: names of modules.

    Returns:
        The calls by name, without modules that are not called.

    Raises:
        RewriteError: the model has no module of that name, or its own forward fails.
    """
    tree = walk(model)
    wanted: dict[str, nn.Module] = {}
    for name in names:
        try:
            wanted[name] = model.get_submodule(name)
        except AttributeError as error:
            raise RewriteError(f"the model has no module {name!r} whose inputs could be recorded") from error
    found: dict[nn.Module, Call] = {}

    def note(module: nn.Module, args: Args, kwargs: Kwargs) -> None:
        if module not in found:
            found[module] = Call(args, kwargs).cloned()

    args, kwargs = Call.of(inputs).cloned()
    with Untouched(tree), evaluating(model), contextlib.ExitStack() as stack:
        # The model's own hooks may change an input: this hook comes behind them.
        for layer in dict.fromkeys(wanted.values()):
            handle = layer.register_forward_pre_hook(note, with_kwargs=True)
            stack.callback(handle.remove)
        try:
            model(*args, **kwargs)
        except ArchcostError:
            raise
        except Exception as error:
            raise RewriteError(
                f"the model's own forward failed while inputs of its layers were recorded: {one_line(error)}"
            ) from error
    return {name: found[layer] for name, layer in wanted.items() if layer in found}


def checked(
    old: nn.Module,
    new: nn.Module,
    example_inputs: Inputs,
    *,
    tolerance: float,
    strides: bool = True,
) -> Check:
    """Run both layers on the same input, in eval mode without gradients, and compare the outputs.

    Args:
        example_inputs: a call of `record_inputs`, or inputs as a model takes them.
        tolerance: the largest accepted max |new - old| / max |old|.
        strides: whether the strides of the outputs have to agree too.
    """
    given = Call.of(example_inputs)
    outputs: list[Output] = []
    for module, what in ((old, "old"), (new, "new")):
        args, kwargs = given.cloned()
        with evaluating(module):
            try:
                outputs.append(module(*args, **kwargs))
            except Exception as error:  # whatever a layer raises is the result
                return Check(tolerance, None, f"the {what} layer failed: {one_line(error)}")
    return _compared(outputs[0], outputs[1], tolerance, strides)


def _compared(was: Output, now: Output, tolerance: float, strides: bool) -> Check:
    if not (isinstance(was, torch.Tensor) and isinstance(now, torch.Tensor)):
        kinds = f"{type(was).__name__}, now {type(now).__name__}"
        return Check(tolerance, None, f"only tensors can be compared; the output was {kinds}")
    facts = [("shape", tuple(was.shape), tuple(now.shape)), ("dtype", was.dtype, now.dtype)]
    facts += [("device", was.device, now.device)]
    if strides and was.shape == now.shape:
        facts += [("strides", _strides(was), _strides(now))]
    wrong = [f"the output's {what}: {a} before, {b} now" for what, a, b in facts if a != b]
    error = error_of(now, was) if was.shape == now.shape and was.device == now.device else None
    if error is not None and not error <= tolerance:
        wrong.append(f"the output's relative error is {error:.1e}, above the tolerance of {tolerance:.0e}")
    return Check(tolerance, error, "; ".join(wrong) or None)


def _strides(tensor: torch.Tensor) -> tuple[int, ...]:
    """Strides with 0 for axes of length 1, where they have no meaning."""
    return tuple(s if n > 1 else 0 for n, s in zip(tensor.shape, tensor.stride(), strict=True))


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode without gradients; training flags and buffers are restored on leaving."""
    flags = [(part, is_training(part)) for part in module.modules()]
    buffers = [(buffer, buffer.detach().clone()) for buffer in module.buffers()]
    try:
        for part, training in flags:
            if training:  # the flag alone: a `train` of their own may do more
                part.training = False
        with torch.no_grad():
            yield
    finally:
        for part, training in flags:
            if is_training(part) != training:
                part.training = training
        with torch.no_grad():
            for buffer, values in buffers:
                if buffer.shape == values.shape and not _same_values(buffer, values):
                    buffer.copy_(values)


def _same_values(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.is_meta or torch.equal(a, b)
