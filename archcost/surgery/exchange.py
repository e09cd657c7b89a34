"""Modules of a model replaced at every parent and name, all or none, and restored."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from archcost.errors import RewriteError
from archcost.surgery.copying import copied
from archcost.surgery.refusals import HOOKS, hooks_of
from archcost.surgery.sites import Hooks, Registration, places_of
from archcost.trace.modules import ModuleTree, walk

__all__ = ["Handle", "fit", "replace"]

New = nn.Module | Callable[[nn.Module], nn.Module]

# Beside the tables that hold hooks, those that say how each is called.
_HOOK_STATE = (
    *HOOKS,
    *("_forward_hooks_with_kwargs", "_forward_hooks_always_called", "_forward_pre_hooks_with_kwargs"),
    "_is_full_backward_hook",
)


@dataclass(frozen=True, eq=False)
class _Exchange:
    """An old module, its new module, and the places of both."""

    name: str
    old: nn.Module
    new: nn.Module
    places: tuple[Registration, ...]
    own_hooks: dict[str, object]
    """The new module's own hooks, kept while it has those of the old one."""


class Handle:
    """The exchanges made by `replace`, which `undo` reverts."""

    def __init__(self, model: nn.Module, exchanges: tuple[_Exchange, ...]) -> None:
        self.model = model
        """The model with its new layers: a copy, or the given model in place."""
        self._exchanges = exchanges

    @property
    def replaced(self) -> dict[str, tuple[nn.Module, nn.Module]]:
        """Old and new modules by first name; empty once undone."""
        return {one.name: (one.old, one.new) for one in self._exchanges}

    def undo(self) -> None:
        """Put every old module back; a second call does nothing.

        Raises:
            RewriteError: another module has been put there since; the model is unchanged.
        """
        for one in self._exchanges:
            for place in one.places:
                if place.parent._modules.get(place.key) is not one.new:
                    raise RewriteError(
                        f"{one.name!r} cannot be put back: another module has replaced it since; undo that "
                        f"first"
                    )
        for one in self._exchanges:
            for place in one.places:
                place.parent._modules[place.key] = one.old
            vars(one.new).update(one.own_hooks)
        self._exchanges = ()


def replace(
    model: nn.Module, new: Mapping[str, New], *, inplace: bool = False, hooks: Hooks = "refuse"
) -> Handle:
    """Replace the named modules of a model, at every place where it has them.

    New modules take over training flag, dtype, device, memory format and ``requires_grad`` of the old ones,
    except for parameters that both have. The order of modules stays. On failure the model is unchanged.

    Args:
        new: a module, or a function that makes it from the old one, by name; any name of a shared module.
        inplace: change the model itself; by default a copy, whose layers the functions are given.
        hooks: "keep": new modules take over the hooks of the old ones, still removable by their handles;
            "refuse": a module with hooks raises.

    Returns:
        The handle with the changed model, whose ``undo()`` restores it.

    Raises:
        RewriteError: a name is unknown or repeated, the model cannot be copied, or hooks would be lost.
        ModelError: a module contains itself.
    """
    tree = walk(model)
    _olds(tree, new)  # before the expense of a copy
    if not inplace:
        _check_from_outside(tree, new)
        model = copied(model)
        tree = walk(model)
    places = places_of(tree)
    exchanges: list[_Exchange] = []
    for name, old in _olds(tree, new).items():
        made = _made(name, old, new[name])
        _check_new(tree, name, old, made, hooks, [one.new for one in exchanges])
        fit(made, old, tree)
        first = tree.names[id(old)][0]
        takes_over = hooks_of(old) and made is not old
        own_hooks = {key: vars(made)[key] for key in _HOOK_STATE if takes_over and key in vars(made)}
        exchanges.append(_Exchange(first, old, made, tuple(places[id(old)]), own_hooks))
    _exchange(exchanges)
    return Handle(model, tuple(exchanges))


def _exchange(exchanges: list[_Exchange]) -> None:
    """Make all exchanges or, where one fails, none."""
    try:
        for one in exchanges:
            vars(one.new).update({key: vars(one.old)[key] for key in one.own_hooks if key in vars(one.old)})
            for place in one.places:
                place.parent._modules[place.key] = one.new
    except BaseException:
        for one in exchanges:
            for place in one.places:
                if place.parent._modules.get(place.key) is one.new:
                    place.parent._modules[place.key] = one.old
            vars(one.new).update(one.own_hooks)
        raise


def _olds(tree: ModuleTree, new: Mapping[str, New]) -> dict[str, nn.Module]:
    """The named modules; raises where a module is named twice or lies inside another."""
    found: dict[str, nn.Module] = {}
    seen: dict[int, str] = {}
    for name in new:
        module = _at(tree, name)
        if id(module) in seen:
            raise RewriteError(
                f"{name!r} and {seen[id(module)]!r} are one shared module, replaced at both places: name it "
                f"once"
            )
        seen[id(module)] = name
        found[name] = module
    for name, module in found.items():
        for inner in module.modules():
            if inner is not module and id(inner) in seen:
                raise RewriteError(
                    f"{seen[id(inner)]!r} lies in {name!r}, which is replaced too: name one of them"
                )
    return found


def _at(tree: ModuleTree, name: str) -> nn.Module:
    if not name:
        raise RewriteError("the model itself cannot be replaced: wrap it, torch.nn.Sequential(model)")
    module: nn.Module | None = tree.modules[""]
    for key in name.split("."):
        if isinstance(module, torch.jit.ScriptModule):
            raise RewriteError(f"{name!r} lies in a ScriptModule, whose parts cannot be replaced")
        module = None if module is None else module._modules.get(key)
    if module is None:
        raise RewriteError(
            f"the model has no module {name!r}; names are those of "
            f"model.named_modules(remove_duplicate=False)"
        )
    return module


def _check_from_outside(tree: ModuleTree, new: Mapping[str, New]) -> None:
    """Refuse new modules with parameters of the model, which would tie the copy to it."""
    own = {id(parameter) for parameter in tree.modules[""].parameters()}
    for name, module in new.items():
        if isinstance(module, nn.Module) and any(id(p) in own for p in module.parameters()):
            raise RewriteError(
                f"the module for {name!r} has parameters of the model, which the changed copy would share "
                f"with it: give a function that makes it from the old layer, or inplace=True"
            )


def _made(name: str, old: nn.Module, new: New) -> nn.Module:
    made = new if isinstance(new, nn.Module) else new(old)
    if not isinstance(made, nn.Module):
        raise RewriteError(f"the replacement for {name!r} is {made!r}, not a torch.nn.Module")
    return made


def _check_new(
    tree: ModuleTree, name: str, old: nn.Module, made: nn.Module, hooks: Hooks, others: list[nn.Module]
) -> None:
    taken = id(made) in tree.names or any(made is other for other in others)
    # A child of the old module may be kept.
    if taken and not any(made is part for part in old.modules()):
        raise RewriteError(f"the module for {name!r} is already in the model: make a module for each place")
    kinds = hooks_of(old)
    if kinds and made is not old and hooks != "keep":
        raise RewriteError(
            f"{name!r} has a {' and a '.join(kinds)}, which would be lost: give hooks='keep' or remove them"
        )
    inside = any(part is old for part in made.modules())
    if kinds and inside and made is not old:
        raise RewriteError(
            f"the module for {name!r} contains the old one, whose hooks would run twice: remove them"
        )
    if kinds and made is not old and (hooks_of(made) or isinstance(made, torch.jit.ScriptModule)):
        raise RewriteError(
            f"the module for {name!r} cannot take over hooks: it has hooks itself, or is a ScriptModule"
        )


def fit(made: nn.Module, old: nn.Module, tree: ModuleTree) -> None:
    """Give a new module flags, dtype, device and layout of the old one; parts of the model stay as they
    are."""
    theirs = {id(tensor) for tensor in (*old.parameters(), *old.buffers())}
    for module in made.modules():
        if id(module) in tree.names:  # it moves here
            theirs |= {id(t) for t in (*module._parameters.values(), *module._buffers.values())}
        elif module.training != old.training:
            module.training = old.training
    like = next((p for p in (*old.parameters(), *old.buffers()) if p.is_floating_point()), None)
    if like is None:
        return
    wants = {name: p.requires_grad for name, p in old.named_parameters()}
    together = any(_is_channels_last(p) for p in old.parameters())
    moved: dict[int, torch.Tensor] = {}
    for module in made.modules():
        for name in ("_parameters", "_buffers"):
            table: dict[str, torch.Tensor | None] = vars(module)[name]
            for key, tensor in table.items():
                if tensor is not None and id(tensor) not in theirs:
                    if id(tensor) not in moved:
                        moved[id(tensor)] = _moved(tensor, like, together)
                    table[key] = moved[id(tensor)]
    for name, parameter in made.named_parameters():
        if id(parameter) not in theirs and parameter.is_floating_point():
            kind = name.rpartition(".")[2]  # a chain has weight and bias several times
            parameter.requires_grad_(wants.get(name, wants.get(kind, any(wants.values()))))


def _moved(tensor: torch.Tensor, like: torch.Tensor, together: bool) -> torch.Tensor:
    """The same tensor with other contents, or a new one where it cannot hold them, as on `meta`."""
    data = tensor.detach().to(like.device, like.dtype if tensor.is_floating_point() else tensor.dtype)
    layout = {4: torch.channels_last, 5: torch.channels_last_3d}.get(tensor.dim())
    if layout is not None and together:
        data = data.contiguous(memory_format=layout)
    if torch._has_compatible_shallow_copy_type(tensor, data):
        tensor.data = data
        return tensor
    return nn.Parameter(data, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else data


def _is_channels_last(tensor: torch.Tensor) -> bool:
    """Whether a tensor is in channels_last and not contiguous as well, as with one channel or tap."""
    layout = {4: torch.channels_last, 5: torch.channels_last_3d}.get(tensor.dim())
    if layout is None or tensor.is_contiguous():
        return False
    return tensor.is_contiguous(memory_format=layout)
