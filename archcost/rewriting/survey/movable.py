"""Why a module beside the convolution that a rule looks at may not be replaced or moved with it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.nn.utils import parametrize

from archcost.rewriting.survey.subjects import Pass, Subject, subjects_of
from archcost.surgery.elsewhere import used_elsewhere
from archcost.surgery.refusals import hooks_of, wraps
from archcost.trace.modules import ModuleTree, walk

__all__ = ["others", "why_fixed"]


class _Known:
    """What is found out once of a pass."""

    def __init__(self, around: Pass) -> None:
        model = around.model
        self.subjects = {one.name: one for one in subjects_of(model, around.trace, around.costs)}
        self.tree: ModuleTree = walk(model)
        self.read = used_elsewhere(around.trace)
        self.held = dict(_held(self.tree))
        self.owners = _owners(self.tree)


# The values hold no pass that is a key, so that they go with it.
_known: WeakKeyDictionary[Pass, _Known] = WeakKeyDictionary()


def others(around: Pass) -> dict[str, Subject]:
    """Every convolution of the model by its first name, for rules that look at several."""
    return _of(around).subjects


def why_fixed(around: Pass, name: str) -> str | None:
    """The reason, in words that follow its name; None where it and all that it holds may go elsewhere."""
    return next(_reasons(around, name), None)


def _reasons(around: Pass, name: str) -> Iterator[str]:
    known = _of(around)
    module = known.tree.modules[name]
    if not name:
        yield "is the whole model: wrap it, torch.nn.Sequential(model)"
    inside = {id(one) for one in module.modules()}
    for one in module.modules():
        inner = known.tree.names[id(one)][0]
        said = "" if one is module else f"holds {inner}, which "
        kinds = hooks_of(one)
        if kinds:
            yield f"{said}has a {kinds[0]} of its own, that would see something else"
        if isinstance(one, torch.jit.ScriptModule):
            yield f"{said}is a ScriptModule"
        if parametrize.is_parametrized(one):
            yield f"{said}is parametrized"
        if inner in known.read and not _lie_in(known.read[inner], name):
            yield f"{said}has parameters that {known.read[inner][0] or 'the model itself'} reads too"
        if id(one) in known.held:
            yield f"{said}is also held in {known.held[id(one)]}, where modules are not registered"
        for parameter in one._parameters.values():
            if parameter is not None and not known.owners[id(parameter)] <= inside:
                yield f"{said}has parameters that other modules have too"
    parents = [".".join(name.split(".")[:count]) for count in range(name.count(".") + 1)]
    for parent in parents:
        holder = known.tree.modules.get(parent)
        if isinstance(holder, torch.jit.ScriptModule):
            yield "lies in a ScriptModule"
        if holder is not None and wraps(holder) is not None:
            yield f"lies in {parent or 'a model'}, which {wraps(holder)}"


def _lie_in(names: tuple[str, ...], name: str) -> bool:
    return all(one == name or one.startswith(f"{name}.") for one in names)


def _of(around: Pass) -> _Known:
    found = _known.get(around)
    if found is None:
        found = _known[around] = _Known(around)
    return found


def _owners(tree: ModuleTree) -> dict[int, set[int]]:
    """By the id of a parameter, those of all modules that have it."""
    found: dict[int, set[int]] = {}
    for module in tree.modules.values():
        for parameter in module._parameters.values():
            if parameter is not None:
                found.setdefault(id(parameter), set()).add(id(module))
    return found


def _held(tree: ModuleTree) -> Iterator[tuple[int, str]]:
    """The id of every module that lies in a list, tuple or dict of another, and where."""
    for name, module in tree.modules.items():
        for key, value in vars(module).items():
            if key in ("_modules", "_parameters", "_buffers") or key.endswith("_hooks"):
                continue
            items: Any = value.values() if isinstance(value, dict) else value
            if isinstance(value, (list, tuple, dict)):
                for item in items:
                    if isinstance(item, nn.Module):
                        yield id(item), f"{name}.{key}" if name else key
            elif isinstance(value, nn.Module):
                yield id(value), f"{name}.{key}" if name else key
