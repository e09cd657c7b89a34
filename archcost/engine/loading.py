"""Load what `accelerate` chose for a model in another process."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar, cast

import torch
from torch import nn

from archcost.engine.module import Engine, accelerated, original
from archcost.engine.reading.registry import Refused
from archcost.engine.recipe import Recipe
from archcost.engine.saved import Saved, architecture
from archcost.errors import ModelError, SpecError
from archcost.latency.store.fingerprint import fingerprint
from archcost.report.saving import load_result
from archcost.surgery.outputs import fresh, outputs_of, worst_error
from archcost.trace.hints import traced
from archcost.trace.inputs import tensors_in
from archcost.trace.modules import check_model

__all__ = ["load_accelerated"]

Model = TypeVar("Model", bound=nn.Module)


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
    kept = load_result(path)
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
    modules, state = architecture(work)
    for before, now in ((kept.modules, modules), (kept.state, state)):
        _check_same(before, now, path)
    call = kept.example()
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
    off = worst_error(outputs_of(fast, call), tensors_in(outputs))
    if not off <= 2 * kept.acceleration.tolerance:
        raise ModelError(f"the program's outputs would be off by {off:.1e}: accelerate the model again")
    return cast(Model, fast)


def _check_same(before: Mapping[str, object], now: Mapping[str, object], path: object) -> None:
    for name in {**before, **now}:
        if (was := before.get(name)) != (found := now.get(name)):
            raise SpecError(f"{path} is for another model: {name or 'the model'} was {was}, and is {found}")
