"""Accelerated: a model that runs a program where it may, and its own modules otherwise."""

from __future__ import annotations

import copy
import functools
import inspect
import os
import threading
import types
import warnings
from collections.abc import Callable
from itertools import chain
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from archcost.engine.acceleration import Acceleration
from archcost.engine.accepted import Accepted
from archcost.engine.checking import worst_layer
from archcost.engine.program import Program
from archcost.engine.reading.registry import Refused
from archcost.engine.recipe import Recipe, state_of
from archcost.engine.saved import Saved
from archcost.engine.watch import Structure, Weights
from archcost.errors import ModelError, SpecError, one_line
from archcost.kernels.loading import why_not
from archcost.report import saving
from archcost.trace.call import Call

__all__ = ["Accelerated", "Engine", "accelerated", "original"]

_PAYS = 10
"""Calls of a program after which the time to make it anew is gained back (3 to 9 of torchvision's models)."""
_MOST_SKIPPED = 62
"""Calls that pass before weights are looked at again that change at every look."""

_LOOKS = 8
"""Where so many calls more were unlike the one before than like it, only every so many is kept."""

_is_compiling: Callable[[], bool] = torch.compiler.is_compiling
_records: Callable[[], bool] = torch.is_grad_enabled
_wants: Callable[[Tensor], bool] = attrgetter("requires_grad")
_has_global_hooks: Callable[[], bool] = nn.modules.module._has_any_global_hook


class Engine:
    """The program of one model, made anew when its weights have changed."""

    def __init__(
        self, model: nn.Module, recipe: Recipe | None, program: Program | None, reason: str | None = None
    ) -> None:
        if recipe is not None and reason is None and (why := why_not()) is not None:
            reason = f"the compiled kernels cannot be used: {why}"  # where it was unpickled
        self.recipe, self.program, self.reason = recipe, program, reason
        """Why the model's own modules run, whatever the call; None where the program may."""
        self.acceleration: Acceleration | None = None
        self._lock = threading.Lock()
        self._changes = self._skipped = self._same = 0
        # Calls of the program, and those with the same weights for which the next one waits.
        self._uses, self._wait = _PAYS, 1
        self._last: Accepted | None = None
        self._looks = 0
        self._structure = None if recipe is None or reason is not None else Structure(model)
        self._weights = self._pending = None if self._structure is None else self._weights_of(model)
        self._kinds = _kinds(model)

    def again(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The outputs of a call like the last one that was looked at; None where it is another."""
        last, program = self._last, self.program
        if last is None or program is not last.program or len(args) != 1 or kwargs:
            return None
        if (made := last.run(args[0])) is not None:
            self._uses += 1
            self._looks -= self._looks > 0
        return made

    def ready(
        self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Program, list[Tensor]] | None:
        """The program for a call and the call's tensors; None where the model's own modules have to run."""
        recipe, structure = self.recipe, self._structure
        if recipe is None or structure is None or self.reason is not None or _looked_on():
            return None
        given = recipe.arguments.tensors(args, kwargs)
        if given is None:
            return None
        program, weights, records = self.program, self._weights, _records()
        if records:
            frozen = weights is not None and not weights.want_gradients()
            if any(map(_wants, given)) or not (frozen or not any(map(_wants, model.parameters()))):
                return None
        if not structure.holds():
            return None
        if program is None or weights is None or not weights.hold():
            program, weights = self._renewed(model)
            if program is None or weights is None or (records and weights.want_gradients()):
                return None
        self._uses += 1
        self._looks += 1
        if (self._looks < _LOOKS or self._looks % _LOOKS == 0) and Accepted.possible(given):
            filled = None if recipe.outputs.single else recipe.outputs.filled
            watches = structure.watch, weights.watch
            self._last = Accepted(given[0], *watches, program=program, filled=filled)
        return program, given

    def run(self, program: Program, given: list[Tensor]) -> Any:
        """The model's outputs for the tensors of a call, by the program."""
        assert self.recipe is not None
        made = program([x if x.is_contiguous() else x.contiguous() for x in given])
        return self.recipe.outputs.filled(made, given)

    def why_not(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
        """Why the model's own modules would run a call, here and now; None where the program does."""
        if self.recipe is None or self._structure is None or self.reason is not None:
            return self.reason or "there is no program for it"
        if _is_compiling() or _looked_on():
            return "a compiler, tracer, autocast, vmap, mode or global hook looks on"
        given = self.recipe.arguments.tensors(args, kwargs)
        if given is None:
            return "the arguments are not like those that the program was made for: shapes, dtypes, structure"
        if _records() and any(x.requires_grad for x in chain(given, model.parameters())):
            return "gradients are recorded: call it under torch.inference_mode() or torch.no_grad()"
        if (changed := self._structure.changed()) is not None:
            return changed
        if self.ready(model, args, kwargs) is None:
            return (
                "weights have changed: the program is made anew at the second call with the same ones, where "
                "they have changed often at a later one"
            )
        return None

    def refresh(self, model: nn.Module) -> None:
        """Make the program anew from the weights as they are now."""
        if self._structure is None:
            return
        with self._lock:
            self.program = self._weights = None
            self._pending = self._weights_of(model)
            self._changes = self._skipped = 0
            self._renew(model)
            self._uses, self._wait = _PAYS, 1  # somebody asked for it

    def check_layers(self, model: nn.Module, call: Call) -> None:
        """Compare every layer of the program, made anew, with float64.

        Raises:
            ModelError: one is not within the tolerance that the program was accepted by, or twice the error
                of PyTorch in float32 where that is larger; or no program can be made now.
        """
        recipe, found = self.recipe, self.acceleration
        assert recipe is not None
        assert found is not None
        try:
            program, _ = recipe.made(recipe.graph(state_of(model)), evaluated=True)
            allowed = max(found.tolerance, 2 * (found.original_error or 0.0))
            worst = worst_layer(program, recipe.arguments.read(call), allowed)
        except Refused as refused:
            raise ModelError(f"no program can be made of it now: {refused}") from refused
        if not worst.exact:
            raise ModelError(
                f"{worst.name} is off by {worst.error:.1e} in the program: accelerate the model again, with "
                f"a larger tolerance where that is as exact as it needs to be"
            )

    def stopped(self) -> str | None:
        """Why the program of a copy may not run: attributes have changed since it was made."""
        return self.reason or (None if self._structure is None else self._structure.changed())

    def _renewed(self, model: nn.Module) -> tuple[Program | None, Weights | None]:
        """Make the program anew at the second call with the same weights; None at the first.

        At the first, PyTorch's modules are faster than making a program: weights may change again at once,
        as in training, moving averages and ``functional_call``. Where they do again and again, more and more
        calls pass before the weights are looked at, since that takes time as well. Where programs were made
        for a few calls each, as by training steps and short evaluations in turns, the next one waits for
        twice as many calls with the same weights, up to those after which it pays.
        """
        with self._lock:
            if self.program is not None and self._weights is not None and self._weights.hold():
                return self.program, self._weights  # another thread did it
            if self.program is not None:
                self._wait = min(2 * self._wait, _PAYS) if self._uses < _PAYS else 1
            self.program = self._weights = None
            if self._skipped > 0:
                self._skipped -= 1
            elif self._pending is None or not self._pending.hold():
                self._pending = self._weights_of(model)
                self._changes += 1
                self._skipped = min(2**self._changes - 2, _MOST_SKIPPED)
                self._same = 0
            else:
                self._same += 1
                if self._same >= self._wait:
                    self._renew(model)
            return self.program, self._weights

    def _renew(self, model: nn.Module) -> None:
        recipe, pending = self.recipe, self._pending
        if recipe is None or pending is None or _kinds(model) != self._kinds:
            self._skipped = _MOST_SKIPPED  # of another dtype, say
            return
        try:
            program = recipe.again(state_of(model))
        except Exception as error:  # the original still can
            self.reason = f"the program could not be made with other weights: {one_line(error)}"
            return
        if pending.hold():
            self.program, self._weights = program, pending
            self._changes = self._uses = 0

    def _weights_of(self, model: nn.Module) -> Weights | None:
        """None where they are not PyTorch's ordinary parameters and buffers on the CPU."""
        assert self.recipe is not None
        state = state_of(model)
        found = {name: state[name] for name in self.recipe.names() if name in state}
        if len(found) < len(self.recipe.names()) or not all(map(Weights.ordinary, found.values())):
            return None
        registered = [one for part in model.modules() for one in part._parameters.values() if one is not None]
        return Weights(model, found) if all(type(one) is nn.Parameter for one in registered) else None


class Accelerated(nn.Module):
    """A model that runs a program where it may, and its own modules otherwise.

    Each is of a class of its own, derived from this one and from the model's, and shares the model's
    ``__dict__``: it has the same attributes, weights, submodules and hooks, and what is changed in one is
    changed in the other.
    """

    __slots__ = ("_archcost_engine",)
    _archcost_engine: Engine

    @property
    def acceleration(self) -> Acceleration:
        """What `archcost.accelerate` did and found."""
        found = self._archcost_engine.acceleration
        if found is None:
            raise AttributeError("acceleration")
        return found

    def refresh(self) -> None:
        """Make the program anew, after writes that cannot be seen: to a few elements, through ``.data``."""
        self._archcost_engine.refresh(self)

    def why_not(self, *args: Any, **kwargs: Any) -> str | None:
        """Why the model's own modules would run this call, here and now; None where the program does."""
        return self._archcost_engine.why_not(self, args, kwargs)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Keep what was chosen in a file of JSON, for `archcost.load_accelerated`; weights are not in it.

        Every layer is compared with float64 before.

        Raises:
            SpecError: it has no program, or was called with arguments that JSON cannot hold.
            ModelError: with the weights as they are a layer is not within the tolerance.
        """
        engine = self._archcost_engine
        if engine.recipe is None or engine.acceleration is None:
            raise SpecError("save keeps what accelerate chose, and this model has no program")
        recipe = engine.recipe
        call = recipe.arguments.example()
        engine.check_layers(self, call)
        saving.save(Saved.of(self, call, recipe.times, recipe.banned, engine.acceleration), path)

    def __reduce_ex__(self, protocol: object) -> tuple[Any, ...]:
        engine = self._archcost_engine
        return _again, (_alone(self), engine.recipe, engine.stopped(), engine.acceleration)

    def __deepcopy__(self, memo: dict[int, Any]) -> Accelerated:
        again, parts = self.__reduce_ex__(4)
        twin: Accelerated = again(copy.deepcopy(parts[0], memo), *parts[1:])
        memo[id(self)] = twin
        return twin


def accelerated(model: nn.Module, engine: Engine) -> Accelerated:
    """A module that shares everything with a model, and runs the engine's program.

    Raises:
        ModelError: the model's class does not let others derive from it.
    """
    kind = type(model)
    try:
        found: Accelerated = object.__new__(_class_of(kind))  # type: ignore[arg-type]
    except TypeError as error:
        raise ModelError(f"accelerate derives a class from {kind.__name__}, which fails: {error}") from error
    object.__setattr__(found, "__dict__", vars(model))
    object.__setattr__(found, "_archcost_engine", engine)
    return found


def original(model: nn.Module) -> nn.Module:
    """The model itself, of its own class; it shares everything with the accelerated one."""
    if not isinstance(model, Accelerated):
        return model
    found: nn.Module = object.__new__(type(model).__mro__[2])
    object.__setattr__(found, "__dict__", vars(model))
    return found


def _alone(model: Accelerated) -> nn.Module:
    """As `original`, with a ``__dict__`` of its own."""
    found: nn.Module = object.__new__(type(model).__mro__[2])
    vars(found).update(vars(model))
    return found


def _again(
    model: nn.Module, recipe: Recipe | None, stopped: str | None, acceleration: Acceleration | None
) -> Accelerated:
    """After copying or unpickling: the program is made at the first call."""
    engine = Engine(model, recipe, None, stopped)
    engine.acceleration = acceleration
    return accelerated(model, engine)


@functools.cache
def _class_of(kind: type[nn.Module]) -> type[Accelerated]:
    plain = kind.forward

    @functools.wraps(plain)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        if _is_compiling():
            return plain(self, *args, **kwargs)
        try:
            engine: Engine = self._archcost_engine
        except AttributeError:  # a copy made past `copy`
            return plain(self, *args, **kwargs)
        try:
            if (made := engine.again(args, kwargs)) is not None:
                return made
            if (ready := engine.ready(self, args, kwargs)) is not None:
                return engine.run(*ready)
        except Exception as error:
            warnings.warn(
                f"the program of {kind.__name__} failed, its own modules run: {one_line(error)}", stacklevel=2
            )
        return plain(self, *args, **kwargs)

    # The model's own methods of the same names, which its code may call, come first.
    own = {
        name: inspect.getattr_static(kind, name)
        for name in ("acceleration", "refresh", "why_not", "save")
        if hasattr(kind, name)
    }
    body = {
        "__slots__": (),
        "__module__": kind.__module__,
        "__doc__": kind.__doc__,
        "forward": forward,
        **own,
    }
    found: type[Accelerated] = types.new_class(
        f"Accelerated{kind.__name__}", (Accelerated, kind), exec_body=lambda space: space.update(body)
    )
    return found


def _looked_on() -> bool:
    """Whether anybody records or changes operations: tracers, modes, autocast, vmap, global hooks."""
    return bool(
        torch._C._is_any_autocast_enabled()
        or torch._C._len_torch_dispatch_stack()
        or torch._C._len_torch_function_stack()
        or torch._C._functorch.peek_interpreter_stack() is not None
        or torch._C._is_tracing()
        or forward_ad._current_level >= 0
        or _has_global_hooks()
    )


def _kinds(model: nn.Module) -> dict[str, object]:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in state_of(model).items()}
