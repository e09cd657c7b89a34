"""Advice where inputs do not fit the model: other ways to pass them, tried before they are suggested."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import TypedDict

import torch
from torch import nn

from archcost.errors import ArchcostError, InputError, ModelError
from archcost.trace.graph import Trace
from archcost.trace.inputs import DTypes, Inputs, InputSize, check_tensors, map_tensors, tensors_in
from archcost.trace.run import record

__all__ = ["traced"]


class _Given(TypedDict, total=False):
    """Inputs, or their sizes: either argument of `record`."""

    inputs: Inputs
    input_size: InputSize


def traced(
    model: nn.Module,
    inputs: Inputs = None,
    *,
    input_size: InputSize | None = None,
    dtype: DTypes | None = None,
    device: str | torch.device | None = None,
    progress: bool | None = None,
) -> Trace:
    """`archcost.trace.run.record`, with errors that also suggest how to pass the inputs."""
    try:
        return record(model, inputs, input_size=input_size, dtype=dtype, device=device, progress=progress)
    except (InputError, ModelError) as error:
        shape = _shape(inputs)
        if shape is not None:
            raise InputError(
                f"inputs is {inputs!r}, which looks like a shape: write input_size={shape}"
            ) from error
        if isinstance(error.__cause__, (TypeError, AttributeError)):
            check_tensors(inputs)
        for said, meant in _meant(model, inputs, input_size) if isinstance(error, InputError) else ():
            if _fits(model, meant, dtype, device):
                raise InputError(f"{error}. {said}").of(error) from error.__cause__
        raise


def _shape(inputs: Inputs) -> tuple[int, ...] | None:
    """The shape that was passed instead of a tensor; None if it was none."""
    if not isinstance(inputs, (tuple, list)) or len(inputs) < 2 or any(type(n) is not int for n in inputs):
        return None
    return tuple(inputs) if min(inputs) > 0 else None


def _meant(model: nn.Module, inputs: Inputs, input_size: InputSize | None) -> Iterator[tuple[str, _Given]]:
    """Other ways to call the model, each with the sentence that suggests it."""
    if inputs is None:
        if isinstance(input_size, (tuple, list)) and input_size:
            if isinstance(input_size[0], int):
                whole = [(1, *input_size)]
                yield _batch(whole), {"input_size": whole[0]}
            elif all(isinstance(one, (tuple, list)) for one in input_size):
                whole = [(1, *one) for one in input_size]
                yield _batch(whole), {"input_size": whole}
        return
    given = tensors_in(inputs)
    if given and not any(tensor.is_nested for tensor in given):
        more = map_tensors(inputs, lambda tensor: tensor.unsqueeze(0))
        yield _batch([(1, *tensor.shape) for tensor in given]), {"inputs": more}
    if type(inputs) in (tuple, dict):
        kind = "positional" if type(inputs) is tuple else "keyword"
        name = _first_argument(model)
        yield (
            f"A {type(inputs).__name__} is {kind} arguments; to pass it as one argument, write ({name},)",
            {"inputs": (inputs,)},
        )
    elif isinstance(inputs, list):
        yield (
            "A list is a single argument; for several, write a tuple: (first, second)",
            {"inputs": tuple(inputs)},
        )


def _batch(sizes: list[tuple[int, ...]]) -> str:
    return f"Is the batch dimension missing? Try {' and '.join(map(str, sizes))}"


def _first_argument(model: nn.Module) -> str:
    """The name of the first argument of the model's forward."""
    try:
        return next(iter(inspect.signature(model.forward).parameters), "inputs")
    except (TypeError, ValueError):  # a compiled forward has no signature
        return "inputs"


def _fits(model: nn.Module, meant: _Given, dtype: DTypes | None, device: str | torch.device | None) -> bool:
    try:
        record(model, **meant, dtype=dtype, device=device, progress=False)
    except ArchcostError:
        return False
    return True
