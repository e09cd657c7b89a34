"""Saving: what `accelerate` chose for a model, in a file of JSON, so that nothing is measured again."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeVar, cast

import torch
from torch import nn

from archcost.engine.acceleration import Acceleration
from archcost.engine.choosing import Times
from archcost.engine.module import Accelerated, Engine, Recipe, accelerated, original
from archcost.engine.reading.registry import Refused
from archcost.errors import ModelError, SpecError
from archcost.latency.store.fingerprint import fingerprint
from archcost.report import saving
from archcost.surgery.outputs import fresh, outputs_of, worst_error
from archcost.trace.call import Call, Inputs
from archcost.trace.hints import traced
from archcost.trace.inputs import example, map_tensors
from archcost.trace.modules import check_model, named_state, walk

__all__ = ["Saved", "load_accelerated", "save"]

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True)
class Example:
    """A tensor of a call, but for its elements."""

    shape: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True)
class Saved:
    """The contents of a file."""

    machine: str
    """The hash of the machine's fingerprint."""
    device: str
    """The same in words."""
    call: Call
    """The call that the program is for, with an `Example` for each tensor."""
    modules: dict[str, str]
    """Names and classes of the model's modules."""
    state: dict[str, tuple[int, ...]]
    """Shapes of its parameters and buffers."""
    times: Times
    """Seconds of the variants of layers, by which they are chosen."""
    banned: frozenset[str]
    """Variants that are not exact enough."""
    acceleration: Acceleration


def save(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Keep what was chosen for an accelerated model, without its weights, for `load_accelerated`.

    Raises:
        SpecError: it has no program, or was called with arguments that JSON cannot hold.
    """
    if not isinstance(model, Accelerated) or (recipe := model._archcost_engine.recipe) is None:
        raise SpecError("save keeps what accelerate chose, and this model has no program")
    acceleration = model._archcost_engine.acceleration
    if acceleration is None:
        raise SpecError("save keeps what accelerate chose, and nothing was measured for this model")
    call = map_tensors(recipe.arguments.example(), _described)  # type: ignore[arg-type]
    machine = fingerprint()
    saving.save(
        Saved(
            *(machine.hash, str(machine), call, *_architecture(model)),
            *(recipe.times, recipe.banned, acceleration),
        ),
        path,
    )


def load_accelerated(path: str | os.PathLike[str], model: Model) -> Model:
    """The accelerated model again, from the model and the file of `save`: nothing is measured.

    Args:
        path: the file.
        model: of the same architecture, in evaluation mode; its weights may be others.

    Raises:
        SpecError: the file is not one of `save`, or for another machine or another model.
        ModelError: no program can be made of the model as it is now.
    """
    check_model(model, SpecError, "load_accelerated: ")
    kept = saving.load_result(path)
    if not isinstance(kept, Saved):
        raise SpecError(
            f"{path} holds a {type(kept).__name__}, which save() of an accelerated model did not write"
        )
    if kept.machine != fingerprint().hash:
        raise SpecError(
            f"{path} was made on another machine, or with other versions: {kept.device}; here is "
            f"{fingerprint()}. Accelerate the model here"
        )
    work = original(model)
    modules, state = _architecture(work)
    for before, now in ((kept.modules, modules), (kept.state, state)):
        _check_same(before, now, path)
    call = Call(*map(_value, kept.call))  # type: ignore[arg-type]
    trace = traced(work, call, progress=False)
    with torch.no_grad():
        args, kwargs = fresh(call)
        outputs = work(*args, **kwargs)
    try:
        recipe, graph = Recipe.of(work, call, trace, outputs)
    except Refused as error:
        raise ModelError(f"no program can be made of it now: {error}") from error
    recipe = replace(recipe, times=kept.times, banned=kept.banned)
    engine = Engine(work, recipe, recipe.made(graph)[0])
    engine.acceleration = kept.acceleration
    fast = accelerated(work, engine)
    off = worst_error(outputs_of(fast, call), outputs_of(work, call))
    if not off <= 2 * kept.acceleration.tolerance:
        raise ModelError(f"the program's outputs would be off by {off:.1e}: accelerate the model again")
    return cast(Model, fast)


def _check_same(before: Mapping[str, object], now: Mapping[str, object], path: object) -> None:
    for name in {**before, **now}:
        if (was := before.get(name)) != (found := now.get(name)):
            raise SpecError(f"{path} is for another model: {name or 'the model'} was {was}, and is {found}")


def _architecture(model: nn.Module) -> tuple[dict[str, str], dict[str, tuple[int, ...]]]:
    """Names and classes of modules, shapes of parameters and buffers."""
    tree = walk(original(model))
    state = {
        f"{owner}.{key}" if owner else key: tuple(tensor.shape) for owner, _, key, tensor in named_state(tree)
    }
    return {name: type(module).__qualname__ for name, module in tree.modules.items()}, state


def _described(tensor: torch.Tensor) -> Example:
    return Example(tuple(tensor.shape), tensor.dtype)


def _value(held: Inputs) -> Inputs:
    if isinstance(held, Example):
        return example(held.shape, held.dtype, "cpu")
    if isinstance(held, (tuple, list)):
        return type(held)(map(_value, held))
    if isinstance(held, dict):
        return {key: _value(item) for key, item in held.items()}
    return held
