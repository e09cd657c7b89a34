"""Watch: whether a model is still as it was when its program was built, looked at before every call.

Compiled code looks at flat tables of addresses: a walk through the modules would take longer than some
layers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import chain
from operator import attrgetter, is_, itemgetter
from typing import Any

import torch
from torch import Tensor, nn

from archcost.engine.places import Watch
from archcost.trace.modules import walk

__all__ = ["Structure", "Weights"]

_BASE = frozenset(vars(nn.Module()))
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_BACKWARD_HOOKS = ("_backward_hooks", "_backward_pre_hooks")  # without gradients they do not run
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)

_values: Callable[[dict[str, Any]], Any] = dict.values
_wants = attrgetter("requires_grad")


class Structure:
    """The modules of a model, their attributes, hooks, and whether they train; not parameters and buffers.

    Attributes are compared by identity or equality: what changes inside of a list or of an object that an
    attribute holds is not seen.
    """

    def __init__(self, model: nn.Module) -> None:
        modules = walk(model).modules
        self._names = [name or "the model" for name in modules]
        self._all = [vars(module) for module in modules.values()]
        self._sizes = list(map(len, self._all))
        groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
        for one in self._all:
            keys = tuple(key for key in one if key not in _BASE)
            groups.setdefault(("training", *keys), []).append(one)
        self._keys = list(groups)
        self._groups = [(itemgetter(*keys), dicts) for keys, dicts in groups.items()]
        self._attributes = self._read()
        self._tables = [
            one._modules for one in modules.values() if one._modules or isinstance(one, _CONTAINERS)
        ]
        self._children = self._read_children()
        # Those of the model itself are run by whoever calls it.
        self._hooks = [one[key] for one in self._all[1:] for key in _HOOKS]
        self.watch = Watch([*self._all, *self._tables, *self._hooks])

    def holds(self) -> bool:
        """Whether all of it is as it was."""
        return self.watch.holds(self._same)

    def hooked(self) -> str | None:
        """The name of the first module with a hook, the model itself included."""
        for name, one in zip(self._names, self._all, strict=True):
            if any(one[key] for key in (*_HOOKS, *_BACKWARD_HOOKS)):
                return name
        return None

    def changed(self) -> str | None:
        """The first module that is not as it was, and why; None where all are."""
        if self.holds():
            return None
        names = {id(one): name for name, one in zip(self._names, self._all, strict=True)}
        for keys, (_, dicts), before in zip(self._keys, self._groups, self._attributes, strict=True):
            for one, old in zip(dicts, before, strict=True):
                for key, value in zip(keys, old if len(keys) > 1 else (old,), strict=True):
                    if key not in one or not _alike(one[key], value):
                        return f"{names[id(one)]}: {key} has changed"
        for name, one in zip(self._names[1:], self._all[1:], strict=True):
            if any(one[key] for key in _HOOKS):
                return f"{name} has hooks"
        return "modules or attributes have been added, removed or replaced"

    def _same(self) -> bool:
        try:
            return (
                not any(self._hooks)
                and list(map(len, self._all)) == self._sizes
                and self._read_children() == self._children
                and self._read() == self._attributes
            )
        except Exception:  # attributes that cannot be compared, such as arrays, or that are gone
            return False

    def _read(self) -> list[list[Any]]:
        return [list(map(get, dicts)) for get, dicts in self._groups]

    def _read_children(self) -> list[Any]:
        return list(chain.from_iterable(map(_values, self._tables)))


def _alike(one: Any, other: Any) -> bool:
    try:
        return one is other or bool(one == other)
    except Exception:
        return False


class Weights:
    """The parameters and buffers of a model, and the elements of some of them: seen by identity, address,
    number of writes, and a fingerprint.

    Args:
        model: the model.
        read: the tensors whose elements count, on the CPU and strided, by name.
    """

    def __init__(self, model: nn.Module, read: Mapping[str, Tensor]) -> None:
        modules = walk(model).modules.values()
        self._tables = [table for one in modules for table in (one._parameters, one._buffers) if table]
        self._sizes = list(map(len, self._tables))
        self._registered = list(chain.from_iterable(map(_values, self._tables)))
        self._tensors = list(read.values())
        self.watch = Watch(self._tables, self._tensors)

    @staticmethod
    def ordinary(tensor: Tensor) -> bool:
        """Whether it is one whose changes can be seen."""
        kinds = (Tensor, nn.Parameter, nn.Buffer)
        return type(tensor) in kinds and tensor.is_cpu and tensor.layout is torch.strided

    def hold(self) -> bool:
        """Whether all are the same, where they were, and unwritten since as far as can be seen."""
        return self.watch.holds(self._same)

    def want_gradients(self) -> bool:
        """Whether autograd records what is computed with any of them."""
        return any(map(_wants, self._tensors))

    def _same(self) -> bool:
        now = chain.from_iterable(map(_values, self._tables))
        return list(map(len, self._tables)) == self._sizes and all(map(is_, now, self._registered))
