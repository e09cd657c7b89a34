"""Untouched: everything that a forward pass can change in a model is restored afterwards."""

from __future__ import annotations

import contextlib
import gc
import random
import sys
import types
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from operator import is_
from typing import TYPE_CHECKING, Any, TypeAlias

from archcost.trace.modules import ModuleTree, state_of

if TYPE_CHECKING:
    import torch

# Containers held as attributes are followed this deep; long ones are compared as a whole only.
_DEPTH = 4
_RECURSE_INTO = 64
_MOST_CONTAINERS = 50_000

_CONTAINERS = frozenset({dict, OrderedDict, list, set, deque})
_PLAIN = frozenset({bool, int, float, complex, str, bytes, type(None), type, types.FunctionType})
_NOT_FOLLOWED = (type, types.FunctionType, types.ModuleType, types.MethodType, types.BuiltinFunctionType)

_Held: TypeAlias = Any
"""An object in an attribute or a container."""
_Dict = dict[_Held, _Held]
_Items = list[_Held] | set[_Held] | deque[_Held]
_Restore = Callable[[], object]


class Untouched:
    """A context in which a model may be run and changed; on leaving, it is as it was on entering.

    Restored: attributes; parameter, buffer, child and hook dictionaries; containers and plain objects
    held as attributes; training flags; requires_grad; replaced parameter data; the values of storages that
    were written (call `keep` before the write); random states; the default dtype.
    """

    def __init__(self, tree: ModuleTree) -> None:
        self.tree = tree
        self._kept: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}

    def __enter__(self) -> Untouched:
        import torch

        self._contents = Contents(self.tree.modules.values())
        self._tensors = [
            (tensor, tensor.data, tensor.requires_grad, tensor.grad)
            for _, _, _, tensor in state_of(self.tree)
            if tensor.is_leaf
        ]
        self._dtype = torch.get_default_dtype()
        self._random = list(_random_states())
        return self

    def __exit__(self, *_: object) -> None:
        self.put_back()

    def put_back(self) -> None:
        """Restore the model as it was on entering; may be called between two passes."""
        failed: list[Exception] = []
        for restore in self._steps():
            try:
                restore()
            except Exception as error:  # the other steps run all the same
                failed.append(error)
        if failed:
            raise failed[0]

    def _steps(self) -> Iterator[_Restore]:
        import torch

        yield self._contents.restore
        yield from (partial(_restore_values, *kept) for kept in self._kept.values())
        yield from (partial(_restore_tensor, *saved) for saved in self._tensors)
        yield from self._random
        yield partial(torch.set_default_dtype, self._dtype)

    def keep(self, storage: torch.UntypedStorage) -> None:
        """Save the values of a storage before it is written for the first time."""
        key = storage._cdata
        if key not in self._kept:
            self._kept[key] = (storage, storage.clone())

    def use(self, replacements: dict[int, torch.Tensor]) -> None:
        """Replace parameters and buffers by ``replacements[id(tensor)]``."""
        for module in self.tree.modules.values():
            for table in (module._parameters, module._buffers):
                for key, tensor in table.items():
                    if tensor is not None:
                        table[key] = replacements.get(id(tensor), tensor)  # type: ignore[assignment]


class Contents:
    """A snapshot of objects, and of the containers and plain objects in their attributes, for `restore`."""

    def __init__(self, objects: Iterable[_Held]) -> None:
        import torch

        self._dicts: list[tuple[_Dict, _Dict]] = []
        self._others: list[tuple[_Items, list[_Held]]] = []
        self._empty: list[_Dict | _Items] = []
        self._generators: list[_Restore] = []
        objects = list(objects)
        # Most attributes of a module: plain values, empty hook dictionaries, tensors, other modules.
        plain = {*_PLAIN, torch.Tensor, torch.nn.Parameter}
        known = {id(thing) for thing in objects}
        # Breadth first: a container that is reachable in several ways is visited at its smallest depth.
        waiting: deque[tuple[_Dict | _Items | tuple[_Held, ...], int]]
        waiting = deque((vars(thing), 0) for thing in objects)
        seen = {id(attributes) for attributes, _ in waiting}
        # The base classes' own methods below: a subclass may give its `copy` or `clear` another meaning.
        while waiting and len(self._dicts) + len(self._others) < _MOST_CONTAINERS:
            container, depth = waiting.popleft()
            if isinstance(container, dict):
                self._dicts.append((container, dict(container)))
            elif not isinstance(container, tuple):
                self._others.append((container, list(container)))
            # The attributes of an object are all followed; a long list is data, not state.
            if depth > _DEPTH or (depth and len(container) > _RECURSE_INTO):
                continue
            for item in container.values() if isinstance(container, dict) else container:
                kind = type(item)
                if kind in plain:
                    continue
                if kind in _CONTAINERS and not item:
                    self._empty.append(item)
                elif id(item) not in known:
                    inner = self._container_of(item)
                    if inner is not None and id(inner) not in seen:
                        seen.add(id(inner))
                        waiting.append((inner, depth + 1))

    def _container_of(self, item: _Held) -> _Dict | _Items | tuple[_Held, ...] | None:
        if isinstance(item, (dict, list, set, deque, tuple)):
            return item
        generator = _generator_state(item)
        if generator is not None:
            self._generators.append(generator)
        elif type(item).__dictoffset__ and not isinstance(item, _NOT_FOLLOWED) and not _is_tensor(item):
            attributes = item.__dict__
            return attributes if type(attributes) is dict else None
        return None

    def restore(self) -> None:
        for container in self._empty:
            if container:
                container.clear()
        for held, entries in self._dicts:
            _restore_entries(held, entries)
        for others, items in self._others:
            _restore_items(others, items)
        for restore in self._generators:
            restore()


def _restore_entries(container: _Dict, saved: _Dict) -> None:
    same_keys = list(container) == list(saved)
    if same_keys and all(map(is_, container.values(), saved.values())):
        return
    kind: type[_Dict] = OrderedDict if isinstance(container, OrderedDict) else dict
    if not same_keys:
        kind.clear(container)
    for key, value in saved.items():
        kind.__setitem__(container, key, value)


def _restore_items(container: _Items, saved: list[_Held]) -> None:
    if isinstance(container, set):
        if len(container) != len(saved) or not container.issuperset(saved):
            set.clear(container)
            set.update(container, saved)
    elif len(container) != len(saved) or any(a is not b for a, b in zip(container, saved, strict=True)):
        if isinstance(container, list):
            list.clear(container)
            list.extend(container, saved)
        else:
            deque.clear(container)
            deque.extend(container, saved)


def _is_tensor(value: _Held) -> bool:
    import torch

    return isinstance(value, torch.Tensor)


def _generator_state(value: _Held) -> _Restore | None:
    """A function that gives a random generator its state again; None for any other object."""
    import torch

    if isinstance(value, torch.Generator):
        return partial(value.set_state, value.get_state())
    if isinstance(value, random.Random):
        return partial(value.setstate, value.getstate())
    numpy = sys.modules.get("numpy.random")
    if numpy is None:
        return None
    if isinstance(value, numpy.RandomState):
        return partial(value.set_state, value.get_state())
    if isinstance(value, numpy.Generator):
        bits = value.bit_generator
        return partial(setattr, bits, "state", bits.state)
    return None


def _restore_tensor(
    tensor: torch.Tensor, data: torch.Tensor, requires_grad: bool, grad: torch.Tensor | None
) -> None:
    if not _same_memory(tensor, data):
        tensor.data = data
    if tensor.requires_grad is not requires_grad:
        tensor.requires_grad_(requires_grad)
    if tensor.grad is not grad:
        tensor.grad = grad


def _same_memory(a: torch.Tensor, b: torch.Tensor) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    try:
        return a.untyped_storage()._cdata == b.untyped_storage()._cdata and a.stride() == b.stride()
    except (NotImplementedError, RuntimeError):
        return False  # sparse tensors have neither; setting the data again changes nothing


def _restore_values(storage: torch.UntypedStorage, values: torch.UntypedStorage) -> None:
    if storage.nbytes() != values.nbytes():
        storage.resize_(values.nbytes())
    storage.copy_(values)


def _random_states() -> Iterator[_Restore]:
    """Functions that give the random generators of the process their states again."""
    import torch

    yield partial(torch.set_rng_state, torch.get_rng_state())
    yield partial(random.setstate, random.getstate())
    if "numpy" in sys.modules:
        generator = sys.modules["numpy"].random
        yield partial(generator.set_state, generator.get_state())
    for name in ("cuda", "xpu"):
        accelerator = getattr(torch, name, None)
        if accelerator is not None and accelerator.is_initialized():
            yield partial(accelerator.set_rng_state_all, accelerator.get_rng_state_all())
    if torch.backends.mps.is_available():
        yield partial(torch.mps.set_rng_state, torch.mps.get_rng_state())


@contextlib.contextmanager
def deeper_recursion() -> Iterator[None]:
    """A higher recursion limit, for the frames that hooks add to a deeply nested model."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(3 * limit + 1000)
    try:
        yield
    finally:
        sys.setrecursionlimit(limit)


@contextlib.contextmanager
def paused_gc() -> Iterator[None]:
    """No garbage collection meanwhile: it takes time, and would free storages at arbitrary moments."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
