"""accelerate: a model as one program of fused steps, where that is faster and as exact."""

from __future__ import annotations

import contextlib
import gc
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal, TypeVar, cast

import torch
from torch import nn

from archcost.engine.acceleration import Acceleration
from archcost.engine.checking import worst_layer
from archcost.engine.choosing import heavier
from archcost.engine.comparing import compare
from archcost.engine.exactness import Exactness
from archcost.engine.findings import Asked, Findings
from archcost.engine.graph import Graph
from archcost.engine.kept import Kept
from archcost.engine.module import Accelerated, Engine, accelerated, original
from archcost.engine.program import Program, TooLarge
from archcost.engine.reading.registry import Refused
from archcost.engine.recipe import Recipe
from archcost.engine.watch import Structure
from archcost.errors import ArchcostError, InputError, ModelError, SpecError, one_line
from archcost.latency.store.store import Store, StoreError, opened
from archcost.latency.timing.deadline import now
from archcost.latency.timing.settings import settings
from archcost.models.specs import load
from archcost.progress import Progress
from archcost.report.quantity import quantity
from archcost.surgery.outputs import exact_outputs, fresh, outputs_of, state_kept, worst_error
from archcost.trace.call import Call, like_traced
from archcost.trace.graph import Trace
from archcost.trace.hints import traced
from archcost.trace.inputs import tensors_in
from archcost.trace.modules import as_written, check_model, check_values

__all__ = ["accelerate"]

Model = TypeVar("Model", bound=nn.Module)

_SECONDS = (1.5, 4.0, 8.0, 24.0)
"""For timing, where none are given: the next where one does not hold enough pairs."""
# Of the seconds, for the variants of layers and, where needed, for what these add to errors, both on top.
_FOR_LAYERS, _FOR_EXACTNESS = 1.0, 1.0
# Passes of the original that variants may take where no seconds were given: large batches would be guessed.
_LAYER_PASSES = 8.0
# Of the seconds, where they were given, until variants have been compared inside of the program.
_INSIDE = 0.7


def accelerate(
    model: Model | str,
    inputs: Any = None,
    *,
    input_size: Any = None,
    tolerance: float = 1e-4,
    seconds: float | None = None,
    threads: int | None = None,
    memory: str | int | None = None,
    store: Store | str | os.PathLike[str] | Literal[False] | None = None,
    weights: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
) -> Model:
    """The same model, faster: for inputs like these, one program of fused steps in place of its modules.

    The program is compared with the original in float64, and timed against it in turns. Where none can be
    made, or it is no faster beyond the noise, the model's own modules run. What was found is in the attribute
    ``acceleration``: ``print(fast.acceleration)``.

    What comes back is of a class derived from the model's, and shares everything with it: attributes,
    weights, submodules, hooks. The program runs for inference alone: in evaluation mode, while no gradients
    are recorded (under ``torch.inference_mode()`` or ``torch.no_grad()``, or without parameters that require
    them), for inputs of these shapes on the CPU, while nothing compiles, traces or hooks into it; otherwise
    the model's own modules do, as before. Its code runs some dozen times while it is measured.

    Args:
        model: a module, or a SPEC such as ``"torchvision:resnet50"``, which `archcost.load` makes one of.
        inputs: of the size and batch that it is to be fast for; a tuple is positional arguments, a dict is
            keyword arguments, anything else is the one argument. Left out, random ones: of ``input_size``, or
            of what the model says of itself, which ``acceleration.notes`` tell.
        input_size: the shape of the input, batch included, where ``inputs`` are not given.
        tolerance: the largest max |y - exact| / max |exact| of the model's outputs that is good enough;
            exact is the original in float64.
        seconds: how long to measure by the wall clock, the trace and some passes on top: layers by
            themselves and inside of the program, then the whole. By default a few seconds, which do not go
            into the program. With 60 and more every layer is compared with float64, not the outputs alone.
        threads: of PyTorch, while measuring; by default as many as now.
        memory: the most that packed weights and working memory may take: ``"200 MB"`` or bytes; by default
            what is left here. Both are known before they are taken: where the fastest program would take
            more, another is chosen, and where none fits, the reason has the bytes.
        store: where measured times are looked up and kept: a `Store`, a path, by default the user's own;
            False keeps nothing.
        weights: of a SPEC, a state dict, as `archcost.load` takes it.
        progress: draw a progress bar on stderr; by default on a terminal.

    Raises:
        InputError: an argument makes no sense, or the inputs do not fit the model.
        ModelError: the model is in training mode, compiled, scripted, exported or on `meta`, or cannot be
            traced.
        SpecError: the SPEC names nothing.
        StoreError: the store cannot be used.
    """
    notes: list[str] = []
    began = now()
    if isinstance(model, str):
        loaded = load(model, weights=os.fspath(weights) if weights is not None else None)
        if inputs is None and input_size is None and loaded.input_size is not None:
            input_size = loaded.input_size
            notes.append(loaded.assumed)
        name, model = loaded.spec, cast(Model, loaded.model)
        if weights is None and name.startswith(("torchvision:", "timm:")):
            notes += _untrained(model)
    elif weights is not None:
        raise SpecError("weights goes with a SPEC; load the state dict of a module before you accelerate it")
    else:
        name = type(model).__name__
    _check(model, tolerance, seconds)
    most = None if memory is None else int(quantity(memory, "bytes", what="accelerate: memory"))
    work = original(model)
    with settings(threads=threads), opened(store) as there, state_kept(work):
        trace = traced(work, inputs, input_size=input_size, progress=progress)
        notes += trace.notes
        call = like_traced(trace) if inputs is None else Call.of(inputs)
        given = _SECONDS if seconds is None else (seconds,)
        asked = Asked(name, call, tolerance, given, Kept(there), seconds is not None)
        with _long_lived(), Progress(4, "accelerate", progress) as bar:
            found = Findings(asked, notes, began)
            fast, acceleration = _accelerated(work, trace, found, most, bar.step)
    fast._archcost_engine.acceleration = acceleration
    return cast(Model, fast)


def _untrained(model: nn.Module) -> list[str]:
    """The note on random weights; those that begin as zero are filled, or outputs could not be compared."""
    generator = torch.Generator().manual_seed(0)
    filled = []
    with torch.no_grad():
        for name, one in model.named_parameters():
            if not name.endswith("bias") and one.is_floating_point() and not one.any():
                one.copy_(0.02 * torch.randn(one.shape, generator=generator))
                filled.append(name)
    note = "random weights: the times are those of trained ones, the error need not be (--weights FILE)"
    if not filled:
        return [note]
    more = f" and {len(filled) - 1} more" * (len(filled) > 1)
    return [f"{note}; {filled[0]}{more}, zero before training, got some, for outputs to compare"]


def _accelerated(
    model: nn.Module, trace: Trace, found: Findings, memory: int | None, step: Callable[[], None]
) -> tuple[Accelerated, Acceleration]:
    """The accelerated model, with what is known of it."""
    call = found.asked.call
    try:
        example, found.pass_s = _example(model, call)
        recipe, graph = Recipe.of(model, call, trace, example)
        recipe = replace(recipe, memory=memory)
        plain = [one.clone() for one in tensors_in(example)]
        exact, found.reference = exact_outputs(model, call, plain)
        if exact and not any(bool(one.any()) for one in exact):
            found.notes.append(
                "its outputs are all zero, with these weights and inputs: the error says nothing"
            )
        found.error = found.original_error = worst_error(plain, exact)
        step()
        recipe, program, off = _exact_enough(model, recipe, graph, exact, found)
        del graph
        step()
    except StoreError:
        raise
    except (Refused, ArchcostError) as error:  # such as that there are no kernels here
        return _left(model, found, str(error))
    except Exception as error:  # the original still can
        return _left(model, found, f"no program could be made of it: {one_line(error)}")
    fast = accelerated(model, Engine(model, recipe, program))
    with torch.no_grad():
        args, kwargs = fresh(call)
        if (why := fast.why_not(*args, **kwargs)) is not None:
            return _left(model, found, why)
    found.arena_bytes, found.weights_bytes = program.arena_bytes, program.weights_bytes
    compare(model, fast, program, recipe.arguments.read(fresh(call)), found, step)
    step()
    if not found.gains():
        return _left(model, found, found.too_little())
    found.error = off
    if found.disturbed:
        found.notes.append(
            "the machine was busy: most samples were interrupted, and are counted all the same"
        )
    if any(one.requires_grad for one in model.parameters()):
        found.notes.append(
            "while gradients are recorded its own modules run: call it under torch.inference_mode() or "
            "torch.no_grad()"
        )
    return fast, found.made(None)


def _left(model: nn.Module, found: Findings, reason: str) -> tuple[Accelerated, Acceleration]:
    return accelerated(model, Engine(model, None, None, reason)), found.made(reason)


def _exact_enough(
    model: nn.Module, recipe: Recipe, graph: Graph, exact: list[torch.Tensor], found: Findings
) -> tuple[Recipe, Program, float]:
    """The fastest program that is within the tolerance and the memory, without the variants that are not."""
    asked = found.asked
    # An original that is off by itself cannot be asked for more than it has.
    allowed = max(asked.tolerance, 2 * found.original_error)
    least = 0.0 if asked.tunes else _LAYER_PASSES * found.pass_s
    deadline = time.perf_counter() + max(_FOR_LAYERS * asked.seconds[0], least)
    inside = time.perf_counter() + _INSIDE * asked.seconds[0] if asked.tunes else 0.0
    exactness = None

    def error_of(names: Mapping[str, str]) -> float:
        some = replace(recipe, banned=frozenset(one for one in recipe.times if names.get(one[0]) != one[1]))
        with torch.inference_mode():
            return worst_error(some.made(graph)[0](recipe.arguments.read(fresh(asked.call))), exact)

    while True:
        try:
            program, chosen = recipe.made(graph, deadline, asked.kept, evaluated=asked.layers)
        except TooLarge:
            larger = heavier(graph) - recipe.banned
            if not larger:
                raise
            recipe = replace(recipe, banned=recipe.banned | larger)
            continue
        off = worst_error(outputs_of(accelerated(model, Engine(model, recipe, program)), asked.call), exact)
        if off <= allowed and inside > time.perf_counter() and 2 * program.bytes <= recipe.room():
            until, inside = inside, 0.0
            if recipe.tuned(graph, fresh(asked.call), until):
                continue
        wrong, where = off, f"its outputs would be off by {off:.1e}"
        if off <= allowed and asked.layers:
            worst = worst_layer(program, recipe.arguments.read(fresh(asked.call)), allowed)
            if worst.exact:
                found.notes.append(
                    f"every layer was compared with float64: {worst.name} is closest to what it may be off, "
                    f"{worst.error:.1e} of {worst.allowed:.1e}"
                )
            else:
                wrong = allowed * worst.error / worst.allowed
                where = f"{worst.name} would be off by {worst.error:.1e}"
        if wrong <= allowed:
            program.forget()
            return recipe, program, off
        del program  # others are made
        if exactness is None:
            exactness = Exactness(graph, recipe.times, error_of, allowed)
            exactness.probe(chosen, time.perf_counter() + _FOR_EXACTNESS * asked.seconds[0])
        inexact = exactness.without(chosen, recipe.banned, wrong)
        if not inexact:
            raise Refused(where)
        recipe = replace(recipe, banned=recipe.banned | inexact)


def _example(model: nn.Module, call: Call) -> tuple[Any, float]:
    """The outputs of the model, and the seconds of that pass.

    Raises:
        Refused: its modules have hooks, or its forward changes attributes of theirs.
    """
    with torch.no_grad():
        args, kwargs = fresh(call)
        model(*args, **kwargs)  # what is kept for later calls is there now
        structure = Structure(model)
        if (name := structure.hooked()) is not None:
            raise Refused(f"{name} has hooks, which run with its own modules alone")
        if nn.modules.module._has_any_global_hook():
            raise Refused("there are global hooks, which run with its own modules alone")
        args, kwargs = fresh(call)
        start = now()
        example = model(*args, **kwargs)
        seconds = now() - start
    if (changed := structure.changed()) is not None:
        raise Refused(f"its forward changes its attributes: {changed}")
    return example, seconds


@contextlib.contextmanager
def _long_lived() -> Iterator[None]:
    """The garbage collector leaves alone what there is now: it runs between samples, and takes its time."""
    alone = gc.get_freeze_count() == 0
    if alone:
        gc.freeze()
    try:
        yield
    finally:
        if alone:
            gc.unfreeze()


def _check(model: Any, tolerance: Any, seconds: Any) -> None:
    check_model(model, InputError, "accelerate: ")
    for what, value in (("tolerance", tolerance), ("seconds", 1.0 if seconds is None else seconds)):
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not value > 0:
            raise InputError(f"accelerate: {what} must be a number above 0; got {value!r}")
    if as_written(model) is not model:
        raise ModelError(
            "accelerate: the model is compiled: accelerate model._orig_mod, and compile what comes of it"
        )
    if isinstance(model, torch.jit.ScriptModule):
        raise ModelError(
            "accelerate: the model is a ScriptModule, whose operations are not seen: accelerate the model "
            "before torch.jit does"
        )
    if "eval" in vars(model):  # which refuses, as that of torch.export does
        raise ModelError(
            "accelerate: the model comes from torch.export, which fixes what runs: accelerate the model, and "
            "export what comes of it"
        )
    for name, part in model.named_modules():
        if as_written(part) is not part:
            raise ModelError(
                f"accelerate: {name} is compiled: put its _orig_mod there, and compile the result"
            )
    check_values(model, "accelerate")
    if model.training:
        raise ModelError(
            "accelerate: the model is in training mode, and programs are for inference: call model.eval() "
            "first (it can be trained afterwards)"
        )
