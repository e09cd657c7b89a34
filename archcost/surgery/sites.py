"""Sites: the convolutions of a model, where each is registered, and why one must stay as it is."""

from __future__ import annotations

import types
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from archcost.surgery.elsewhere import used_elsewhere
from archcost.surgery.refusals import hooks_of, is_convolution, why_not, wraps
from archcost.trace.graph import Trace
from archcost.trace.modules import ModuleTree, type_name, walk

__all__ = ["Hooks", "Place", "Site", "held_elsewhere", "places_of", "sites"]

Hooks = Literal["refuse", "keep"]

# Containers held as attributes are searched for modules this deep, and the first so many items.
_DEPTH = 3
_MOST_ITEMS = 4096


@dataclass(frozen=True, eq=False)
class Place:
    """One entry in one parent: ``parent._modules[key]``."""

    parent: nn.Module
    key: str


@dataclass(frozen=True, eq=False)
class Site:
    """One convolution of a model."""

    names: tuple[str, ...]
    """Every name that ``named_modules(remove_duplicate=False)`` has for it (the first 32)."""
    module: nn.Module
    places: tuple[Place, ...]
    """All of them, also where there are more than names; a parent that is shared has one for each key."""
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
) -> tuple[Site, ...]:
    """Every convolution of ``model``, and whatever says that it is one, in order of definition.

    Args:
        trace: a pass of the model: weights that it shows to be used elsewhere are a reason to refuse.
        keeps_parameters: whether what comes in a layer's place holds the very same parameters: then weights
            may be tied, used elsewhere, and have hooks.
        hooks: "keep" where they are taken over, as `replace` does when told the same.

    Raises:
        ModelError: a module holds itself.
    """
    tree = walk(model)
    found = [module for module in tree.modules.values() if is_convolution(module)]
    places = places_of(tree)
    around = dict(_wrapped(tree))
    held = held_elsewhere(tree)
    tied = {} if keeps_parameters else _tied(tree)
    read = {} if keeps_parameters or trace is None else used_elsewhere(trace)

    def reasons(module: nn.Module, names: tuple[str, ...], here: tuple[Place, ...]) -> Iterator[str | None]:
        yield why_not(module)
        yield around.get(id(module))
        yield None if here else "it is the whole model: wrap it, torch.nn.Sequential(model)"
        yield _within(here)
        if id(module) in held:
            yield f"it is also held in {held[id(module)]}, which is no place where modules are registered"
        yield _of_hooks(module) if hooks == "refuse" else None
        yield None if keeps_parameters else _of_parameters(module, names, tied)
        yield f"its parameters are read by {_listed(read[names[0]])} too" if names[0] in read else None

    result = []
    for module in found:
        names, here = tuple(tree.names[id(module)]), tuple(places.get(id(module), ()))
        reason = next((one for one in reasons(module, names, here) if one), None)
        result.append(Site(names, module, here, reason))
    return tuple(result)


def places_of(tree: ModuleTree) -> dict[int, list[Place]]:
    """By the id of a module, every place where it is registered."""
    places: dict[int, list[Place]] = defaultdict(list)
    for parent in tree.modules.values():
        for key, child in parent._modules.items():
            if child is not None:
                places[id(child)].append(Place(parent, key))
    return places


def _wrapped(tree: ModuleTree) -> Iterator[tuple[int, str]]:
    for name, module in tree.modules.items():
        why = wraps(module)
        if why is not None:
            for inner in module.modules():
                yield id(inner), f"{name or 'the model'} around it {why}"


def _within(places: tuple[Place, ...]) -> str | None:
    if any(isinstance(place.parent, torch.jit.ScriptModule) for place in places):
        return "it lies in a ScriptModule, whose parts cannot be exchanged: rewrite before torch.jit does"
    return None


def _of_hooks(module: nn.Module) -> str | None:
    kinds = hooks_of(module)
    if not kinds:
        return None
    return f"it has a {_listed(kinds)} of its own, that would be lost: hooks='keep' takes them over"


def _of_parameters(module: nn.Module, names: tuple[str, ...], tied: dict[int, list[str]]) -> str | None:
    own = {f"{name}.{key}" if name else key for name in names for key in module._parameters}
    for key, parameter in module._parameters.items():
        if parameter is None or type(parameter) is not nn.Parameter:
            continue
        others = [name for name in tied.get(_memory(parameter), ()) if name not in own]
        if others:
            return f"its {key} shares its memory with {_listed(others)}"
        if parameter._backward_hooks or getattr(parameter, "_post_accumulate_grad_hooks", None):
            return f"its {key} has gradient hooks, that would be lost"
    return None


def _tied(tree: ModuleTree) -> dict[int, list[str]]:
    """By its memory, the names of every parameter and buffer."""
    found: dict[int, list[str]] = defaultdict(list)
    for name, module in tree.modules.items():
        if isinstance(module, torch.jit.ScriptModule):
            continue
        for key, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None and type(tensor) in (torch.Tensor, nn.Parameter, nn.Buffer):
                found[_memory(tensor)].append(f"{name}.{key}" if name else key)
    return found


def _memory(tensor: torch.Tensor) -> int:
    # Without a storage it stands for itself: sparse and wrapper tensors have none.
    try:
        return int(tensor.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError):
        return -id(tensor)


def held_elsewhere(tree: ModuleTree) -> dict[int, str]:
    """By the id of a module, where another one holds it beside the places where modules are registered."""
    found: dict[int, str] = {}
    for name, module in tree.modules.items():
        for key, value in vars(module).items():
            if key.startswith("_") and key.endswith(("_modules", "_parameters", "_buffers", "_hooks")):
                continue
            for layer in _modules_in(value, _DEPTH):
                if layer is not module:
                    found.setdefault(id(layer), f"{name}.{key}" if name else key)
    return found


def _modules_in(value: Any, depth: int) -> Iterator[nn.Module]:
    if isinstance(value, nn.Module):
        yield value
    elif isinstance(value, types.MethodType):
        yield from _modules_in(value.__self__, 0)
    elif depth and isinstance(value, (list, tuple, set, frozenset, dict)):
        items = list(value.values() if isinstance(value, dict) else value)[:_MOST_ITEMS]
        for item in items:
            yield from _modules_in(item, depth - 1)


def _listed(names: Any) -> str:
    shown = [str(name) or "the model itself" for name in list(names)[:3]]
    more = len(list(names)) - len(shown)
    return " and ".join(shown) + (f" and {more} more" if more else "")
