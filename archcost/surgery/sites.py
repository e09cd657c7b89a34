"""Sites: the convolutions of a model, where each is registered, and why some may not be replaced."""

from __future__ import annotations

import types
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from archcost.surgery.elsewhere import used_elsewhere
from archcost.surgery.refusals import hooks_of, is_convolution, is_linear, why_not, wraps
from archcost.trace.graph import Trace
from archcost.trace.modules import ModuleTree, type_name, walk

__all__ = ["ConvSite", "Hooks", "Registration", "held_elsewhere", "places_of", "sites"]

Hooks = Literal["refuse", "keep"]

# Depth and number of items to which containers in attributes are searched for modules.
_DEPTH = 3
_MOST_ITEMS = 4096


@dataclass(frozen=True, eq=False)
class Registration:
    """A registration of a module: ``parent._modules[key]``."""

    parent: nn.Module
    key: str


@dataclass(frozen=True, eq=False)
class ConvSite:
    """A convolution of a model, with its names and places."""

    names: tuple[str, ...]
    """Its names in ``named_modules(remove_duplicate=False)``, the first 32."""
    module: nn.Module
    places: tuple[Registration, ...]
    """Every registration, also beyond those names; a shared parent counts once for each key."""
    reason: str | None
    """Why it may not be replaced, in words that follow its name; None where it may."""

    @property
    def name(self) -> str:
        return self.names[0]

    def __str__(self) -> str:
        said = f"{self.name or 'the model'} ({type_name(self.module)})"
        return said if self.reason is None else f"{said}: {self.reason}"


def sites(
    model: nn.Module,
    *,
    trace: Trace | None = None,
    keeps_parameters: bool = False,
    hooks: Hooks = "refuse",
    linear: bool = False,
) -> tuple[ConvSite, ...]:
    """Every convolution of a model (`is_convolution`), in order of definition.

    Args:
        trace: a pass of the model; weights that it shows to be read elsewhere are a reason to refuse.
        keeps_parameters: whether new layers have the same parameters: then weights may be tied, read
            elsewhere, and have hooks.
        hooks: "keep" where new layers take hooks over, as in `replace`.
        linear: the linear layers instead.

    Raises:
        ModelError: a module contains itself.
    """
    tree = walk(model)
    wanted = is_linear if linear else is_convolution
    found = [module for module in tree.modules.values() if wanted(module)]
    places = places_of(tree)
    around = dict(_wrapped(tree))
    held = held_elsewhere(tree)
    tied = {} if keeps_parameters else _tied(tree)
    read = {} if keeps_parameters or trace is None else used_elsewhere(trace)

    def reasons(
        module: nn.Module, names: tuple[str, ...], here: tuple[Registration, ...]
    ) -> Iterator[str | None]:
        yield why_not(module)
        yield around.get(id(module))
        yield None if here else "it is the whole model: wrap it, torch.nn.Sequential(model)"
        yield _within(here)
        if id(module) in held:
            yield f"it is also held in {held[id(module)]}, which is not a registration"
        yield _of_hooks(module) if hooks == "refuse" else None
        yield None if keeps_parameters else _of_parameters(module, names, tied)
        yield f"its parameters are also read by {_listed(read[names[0]])}" if names[0] in read else None

    result = []
    for module in found:
        names, here = tuple(tree.names[id(module)]), tuple(places.get(id(module), ()))
        reason = next((one for one in reasons(module, names, here) if one), None)
        result.append(ConvSite(names, module, here, reason))
    return tuple(result)


def places_of(tree: ModuleTree) -> dict[int, list[Registration]]:
    """Every registration of each module, by the module's id."""
    places: dict[int, list[Registration]] = defaultdict(list)
    for parent in tree.modules.values():
        for key, child in parent._modules.items():
            if child is not None:
                places[id(child)].append(Registration(parent, key))
    return places


def _wrapped(tree: ModuleTree) -> Iterator[tuple[int, str]]:
    for name, module in tree.modules.items():
        why = wraps(module)
        if why is not None:
            for inner in module.modules():
                yield id(inner), f"{name or 'the model'} around it {why}"


def _within(places: tuple[Registration, ...]) -> str | None:
    if any(isinstance(place.parent, torch.jit.ScriptModule) for place in places):
        return "it lies in a ScriptModule: rewrite the model before torch.jit compiles it"
    return None


def _of_hooks(module: nn.Module) -> str | None:
    kinds = hooks_of(module)
    if not kinds:
        return None
    return f"it has a {_listed(kinds)}, which would be lost: hooks='keep' takes it over"


def _of_parameters(module: nn.Module, names: tuple[str, ...], tied: dict[int, list[str]]) -> str | None:
    own = {f"{name}.{key}" if name else key for name in names for key in module._parameters}
    for key, parameter in module._parameters.items():
        if parameter is None or type(parameter) is not nn.Parameter:
            continue
        others = [name for name in tied.get(_memory(parameter), ()) if name not in own]
        if others:
            return f"its {key} shares its memory with {_listed(others)}"
        if parameter._backward_hooks or getattr(parameter, "_post_accumulate_grad_hooks", None):
            return f"its {key} has gradient hooks, which would be lost"
    return None


def _tied(tree: ModuleTree) -> dict[int, list[str]]:
    """Names of all parameters and buffers by their memory."""
    found: dict[int, list[str]] = defaultdict(list)
    for name, module in tree.modules.items():
        if isinstance(module, torch.jit.ScriptModule):
            continue
        for key, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None and type(tensor) in (torch.Tensor, nn.Parameter, nn.Buffer):
                found[_memory(tensor)].append(f"{name}.{key}" if name else key)
    return found


def _memory(tensor: torch.Tensor) -> int:
    # Sparse and wrapper tensors have no storage: each is its own memory.
    try:
        return int(tensor.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError):
        return -id(tensor)


def held_elsewhere(tree: ModuleTree) -> dict[int, str]:
    """The attribute in which another module holds a module unregistered, by the module's id."""
    found: dict[int, str] = {}
    for name, module in tree.modules.items():
        for key, value in vars(module).items():
            if key.startswith("_") and key.endswith(("_modules", "_parameters", "_buffers", "_hooks")):
                continue
            for layer in _modules_in(value, _DEPTH):
                if layer is not module:
                    found.setdefault(id(layer), f"{name}.{key}" if name else key)
    return found


def _modules_in(value: object, depth: int) -> Iterator[nn.Module]:
    if isinstance(value, nn.Module):
        yield value
    elif isinstance(value, types.MethodType):
        yield from _modules_in(value.__self__, 0)
    elif depth and isinstance(value, (list, tuple, set, frozenset, dict)):
        items = list(value.values() if isinstance(value, dict) else value)[:_MOST_ITEMS]
        for item in items:
            yield from _modules_in(item, depth - 1)


def _listed(names: Sequence[str]) -> str:
    shown = [name or "the model itself" for name in names[:3]]
    more = len(names) - len(shown)
    return " and ".join(shown) + (f" and {more} more" if more else "")
