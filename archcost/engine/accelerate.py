"""accelerate: a model as one program of fused steps, where that is faster and as exact."""

from __future__ import annotations

import contextlib
import gc
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import sqrt
from typing import Any, Literal, TypeVar, cast

import torch
from torch import nn

from archcost.engine.acceleration import Acceleration
from archcost.engine.checking import worst_layer
from archcost.engine.describing import step_seconds, step_times
from archcost.engine.exactness import Exactness
from archcost.engine.graph import Graph
from archcost.engine.kept import Kept
from archcost.engine.module import Accelerated, Engine, accelerated, original
from archcost.engine.program import Program
from archcost.engine.reading.registry import Refused
from archcost.engine.recipe import Recipe
from archcost.engine.watch import Structure
from archcost.errors import ArchcostError, InputError, ModelError, SpecError, one_line
from archcost.latency.store.fingerprint import fingerprint
from archcost.latency.store.store import Store, StoreError, opened
from archcost.latency.timing.clock import Ratio, Timing, compare_calls, ratio
from archcost.latency.timing.context import time_in_context
from archcost.latency.timing.deadline import FEWEST, Deadline, now
from archcost.latency.timing.settings import settings
from archcost.latency.timing.thresholds import STANDARD_ERROR
from archcost.models.specs import load
from archcost.progress import Progress
from archcost.surgery.outputs import exact_outputs, fresh, outputs_of, state_kept, worst_error
from archcost.trace.call import Call, like_traced
from archcost.trace.graph import Trace
from archcost.trace.hints import traced
from archcost.trace.modules import as_written, check_model, check_values

__all__ = ["accelerate"]

Model = TypeVar("Model", bound=nn.Module)

_SECONDS = (1.5, 6.0, 24.0)
"""For timing, where none are given: the next where one does not hold enough pairs."""
_PASSES = 3.0
"""Passes of the original that a first pair takes, at least: one before the sample, and the program's two."""
_THOROUGH = 60.0
"""Seconds of which some may go into comparing every layer with float64."""
_ROUNDS = 25
_STEP_PASSES = 7
# Of the seconds, for the variants of layers and, where needed, for what these add to errors, both on top; and
# for the modules of the original.
_FOR_LAYERS, _FOR_EXACTNESS, _FOR_MODULES = 1.0, 2.0, 0.3
# Of the seconds, where they were given, until variants have been compared inside of the program.
_INSIDE = 0.7
_LEAST_GAIN = 1.01
# So much as a median is no noise, however few the pairs.
_CLEAR_GAIN = 1.5
# The noise is taken to be this at least where the samples were interrupted.
_DISTURBED_NOISE = 0.05


def accelerate(
    model: Model | str,
    inputs: Any = None,
    *,
    input_size: Any = None,
    tolerance: float = 1e-4,
    seconds: float | None = None,
    threads: int | None = None,
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
    work = original(model)
    with settings(threads=threads), opened(store) as there, state_kept(work):
        trace = traced(work, inputs, input_size=input_size, progress=progress)
        notes += trace.notes
        call = like_traced(trace) if inputs is None else Call.of(inputs)
        given = _SECONDS if seconds is None else (seconds,)
        asked = _Asked(name, call, tolerance, given, Kept(there), seconds is not None)
        with _long_lived(), Progress(4, "accelerate", progress) as bar:
            found, acceleration = _accelerated(work, asked, trace, notes, began, bar.step)
    found._archcost_engine.acceleration = acceleration
    return cast(Model, found)


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


@dataclass(frozen=True)
class _Asked:
    name: str
    call: Call
    tolerance: float
    seconds: tuple[float, ...]
    kept: Kept
    tunes: bool
    """Whether variants are compared inside of the program as well."""

    @property
    def layers(self) -> bool:
        """Whether there is time to compare every layer."""
        return self.seconds[0] >= _THOROUGH


def _accelerated(
    model: nn.Module,
    asked: _Asked,
    trace: Trace,
    notes: list[str],
    began: float,
    step: Callable[[], None],
) -> tuple[Accelerated, Acceleration]:
    """The accelerated model, with what is known of it."""
    report = _Report(asked, notes, began)
    try:
        recipe, graph = Recipe.of(model, asked.call, trace, _example(model, asked.call))
        start = now()
        plain = outputs_of(model, asked.call)
        report.pass_s = now() - start
        exact, report.reference = exact_outputs(model, asked.call, plain)
        if exact and not any(bool(one.any()) for one in exact):
            notes.append("its outputs are all zero, with these weights and inputs: the error says nothing")
        report.error = report.original_error = worst_error(plain, exact)
        step()
        recipe, program, off = _exact_enough(model, recipe, graph, exact, report)
        step()
    except StoreError:
        raise
    except (Refused, ArchcostError) as error:  # such as that there are no kernels here
        return _left(model, report, str(error))
    except Exception as error:  # the original still can
        return _left(model, report, f"no program could be made of it: {one_line(error)}")
    fast = accelerated(model, Engine(model, recipe, program))
    with torch.no_grad():
        args, kwargs = fresh(asked.call)
        if (why := fast.why_not(*args, **kwargs)) is not None:
            return _left(model, report, why)
    report.arena_bytes, report.weights_bytes = program.arena_bytes, program.weights_bytes
    return _timed(model, fast, program, report, off, step)


def _exact_enough(
    model: nn.Module, recipe: Recipe, graph: Graph, exact: list[torch.Tensor], report: _Report
) -> tuple[Recipe, Program, float]:
    """The fastest program that is within the tolerance, without the variants that are not."""
    asked = report.asked
    # An original that is off by itself cannot be asked for more than it has.
    allowed = max(asked.tolerance, 2 * report.original_error)
    deadline = time.perf_counter() + _FOR_LAYERS * asked.seconds[0]
    inside = time.perf_counter() + _INSIDE * asked.seconds[0] if asked.tunes else 0.0
    exactness = None

    def error_of(names: Mapping[str, str]) -> float:
        some = replace(recipe, banned=frozenset(one for one in recipe.times if names.get(one[0]) != one[1]))
        given = recipe.arguments.tensors(*fresh(asked.call))
        assert given is not None
        with torch.inference_mode():
            return worst_error(some.made(graph)[0]([x.contiguous() for x in given]), exact)

    while True:
        program, chosen = recipe.made(graph, deadline, asked.kept, evaluated=asked.layers)
        off = worst_error(outputs_of(accelerated(model, Engine(model, recipe, program)), asked.call), exact)
        if off <= allowed and inside > time.perf_counter():
            until, inside = inside, 0.0
            if recipe.tuned(graph, Call(*fresh(asked.call)), until):
                continue
        where = "its outputs"
        if off <= allowed and asked.layers:
            given = recipe.arguments.tensors(*fresh(asked.call))
            assert given is not None
            error, layer = worst_layer(program, [x.contiguous() for x in given])
            if error <= allowed:
                report.notes.append(
                    f"every layer was compared with float64: {layer} is off most, by {error:.1e}"
                )
            else:
                off, where = error, layer
        if off <= allowed:
            program.forget()
            return recipe, program, off
        if exactness is None:
            exactness = Exactness(graph, recipe.times, error_of, allowed)
            exactness.probe(chosen, time.perf_counter() + _FOR_EXACTNESS * asked.seconds[0])
        inexact = exactness.without(chosen, recipe.banned, off)
        if not inexact:
            raise Refused(f"{where} would be off by {off:.1e}")
        recipe = replace(recipe, banned=recipe.banned | inexact)


def _timed(
    model: nn.Module,
    fast: Accelerated,
    program: Program,
    report: _Report,
    off: float,
    step: Callable[[], None],
) -> tuple[Accelerated, Acceleration]:
    asked = report.asked
    *_, most = asked.seconds
    for seconds in [one for one in asked.seconds if one >= _PASSES * report.pass_s] or [most]:
        deadline = Deadline(seconds)
        report.times(_in_turns(model, fast, asked, deadline.before(_FOR_MODULES * seconds)))
        if report.gains() or (report.ratio is not None and report.ratio.pairs >= FEWEST):
            break
    step()
    given = fast._archcost_engine.recipe.arguments.tensors(*fresh(asked.call))  # type: ignore[union-attr]
    assert given is not None
    ready = [x.contiguous() for x in given]
    with torch.inference_mode():
        taken = step_seconds(program, ready, _STEP_PASSES if deadline.left > 0 else 1)
    own = _own_ms(model, asked, max(deadline.left, 0.1 * seconds), report.original_ms)
    report.steps = step_times(program, taken, own, report.original_ms, report.accelerated_ms)
    step()
    if not report.gains():
        return _left(model, report, report.too_little())
    report.error = off
    if report.disturbed:
        report.notes.append(
            "the machine was busy: most samples were interrupted, and are counted all the same"
        )
    if any(one.requires_grad for one in model.parameters()):
        report.notes.append(
            "while gradients are recorded its own modules run: call it under torch.inference_mode() or "
            "torch.no_grad()"
        )
    return fast, report.made(None)


def _left(model: nn.Module, report: _Report, reason: str) -> tuple[Accelerated, Acceleration]:
    return accelerated(model, Engine(model, None, None, reason)), report.made(reason)


class _Report:
    """What is known so far."""

    def __init__(self, asked: _Asked, notes: list[str], began: float) -> None:
        self.asked, self.notes, self.began = asked, notes, began
        self.reference = "original"
        self.error: float | None = None
        self.original_error = 0.0
        self.pass_s = 0.0
        self.ratio: Ratio | None = None
        self.original_ms: float | None = None
        self.accelerated_ms: float | None = None
        self.samples = self.dropped = 0
        self.disturbed = False
        self.arena_bytes: int | None = None
        self.weights_bytes: int | None = None
        self.steps: tuple[Any, ...] = ()

    def times(self, timings: dict[str, Timing]) -> None:
        if len(timings) < 2:
            return
        wall = torch.get_num_threads() > 1
        before, after = timings["original"], timings["accelerated"]
        self.ratio = ratio(before, after, wall=wall)
        self.original_ms, self.accelerated_ms = (
            1e3 * (one.wall_median if wall else one.median) for one in (before, after)
        )
        self.samples, self.dropped = after.kept, after.dropped
        self.disturbed = before.disturbed or after.disturbed

    def gains(self) -> bool:
        """Whether the ratio is above 1 beyond its noise: twice the standard error of its median."""
        if self.ratio is None or self.ratio.pairs < FEWEST:
            return self.ratio is not None and self.ratio.median > _CLEAR_GAIN
        noise = 2 * STANDARD_ERROR * self.ratio.spread / sqrt(self.ratio.pairs)
        return self.ratio.median - 1 > max(_LEAST_GAIN - 1, noise, _DISTURBED_NOISE * self.disturbed)

    def too_little(self) -> str:
        if self.ratio is None or self.ratio.pairs < FEWEST:
            return f"fewer than {FEWEST} pairs of passes were timed: give more seconds, or a quieter machine"
        return f"the program gains no more than the noise ({self.ratio.median:.2f}x)"

    def made(self, reason: str | None) -> Acceleration:
        given = self.asked.call.tensors
        return Acceleration(
            model_name=self.asked.name,
            changed=reason is None,
            reason=reason,
            steps=self.steps,
            ratio=self.ratio,
            original_ms=self.original_ms,
            accelerated_ms=self.accelerated_ms,
            samples=self.samples,
            dropped=self.dropped,
            error=self.error,
            original_error=None if self.error is None else self.original_error,
            reference=self.reference,
            tolerance=self.asked.tolerance,
            arena_bytes=self.arena_bytes,
            weights_bytes=self.weights_bytes,
            ready_s=now() - self.began,
            device=str(fingerprint()),
            threads=torch.get_num_threads(),
            batch=given[0].shape[0] if given and given[0].dim() else None,
            torch=str(torch.__version__),
            notes=tuple(self.notes),
            variants_timed=self.asked.kept.timed,
            variants_read=self.asked.kept.read,
        )


def _example(model: nn.Module, call: Call) -> Any:
    """What the model returns.

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
        example = model(*args, **kwargs)
    if (changed := structure.changed()) is not None:
        raise Refused(f"its forward changes its attributes: {changed}")
    return example


def _in_turns(model: nn.Module, fast: nn.Module, asked: _Asked, deadline: Deadline) -> dict[str, Timing]:
    def call_of(side: nn.Module) -> tuple[Callable[[Any], Any], Callable[[], Any]]:
        def prepare() -> Any:
            args, kwargs = fresh(asked.call)
            side(*args, **kwargs)  # its own weights are in the caches again
            return fresh(asked.call)

        def call(given: Any) -> Any:
            args, kwargs = given
            return side(*args, **kwargs)

        return call, prepare

    both = {"original": call_of(model), "accelerated": call_of(fast)}
    with torch.inference_mode():
        return compare_calls(
            {name: call for name, (call, _) in both.items()},
            prepare={name: prepare for name, (_, prepare) in both.items()},
            rounds=_ROUNDS,
            warmup=0,
            deadline=deadline,
            cpu_clock="thread" if torch.get_num_threads() == 1 else "process",
        )


def _own_ms(
    model: nn.Module, asked: _Asked, seconds: float, original_ms: float | None
) -> dict[str, float] | None:
    """Own time of each module inside of the original's passes, which add up to ``original_ms``."""
    if original_ms is None:
        return None
    try:
        found = time_in_context(model, asked.call, seconds=seconds, precision=0.05)
    except ArchcostError:
        return None
    scale = original_ms / (1e3 * found.total) if found.total else 1.0
    own: dict[str, float] = {}
    for one in found.calls:
        own[one.name] = own.get(one.name, 0.0) + 1e3 * one.median_s * scale
    return own


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
