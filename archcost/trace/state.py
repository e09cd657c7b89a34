"""The model we are handed comes back untouched: everything a forward pass can change, put back."""

from __future__ import annotations

import contextlib
import random
import signal
import sys
import threading
from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from archcost.trace.modules import ModuleTree, state_of

if TYPE_CHECKING:
    import torch

# One pass at a time: while weights stand on `meta`, a second thread must not take them for the model's.
_ONE_AT_A_TIME = threading.RLock()

# Containers whose contents are put back in place; longer ones are compared as a whole only.
_CONTAINERS = (dict, OrderedDict, defaultdict, list, set, deque)
_RECURSE_INTO = 64


class Untouched:
    """A context in which a model may be run and changed; on leaving, it is as it was on entering.

    Put back: attributes, parameter, buffer, child and hook dictionaries, lists and sets held as
    attributes, training flags, requires_grad, parameter data that was replaced, values of storages that
    were written (`keep` is told before the write), random states, grad mode and default dtype.
    """

    def __init__(self, tree: ModuleTree) -> None:
        self.tree = tree
        self._kept: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}

    def __enter__(self) -> Untouched:
        _ONE_AT_A_TIME.acquire()
        try:
            self._snapshot()
        except BaseException:
            _ONE_AT_A_TIME.release()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            with _interrupt_later():
                self._restore()
        finally:
            _ONE_AT_A_TIME.release()

    def keep(self, storage: torch.UntypedStorage) -> None:
        """Remember the values of a storage that is about to be written, once."""
        key = storage._cdata
        if key not in self._kept:
            self._kept[key] = (storage, storage.clone())

    def use(self, replacements: dict[int, torch.Tensor]) -> None:
        """Put ``replacements[id(tensor)]`` in the place of parameters and buffers."""
        for module in self.tree.modules.values():
            tables: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
            for table in tables:
                for key, tensor in table.items():
                    if tensor is not None:
                        table[key] = replacements[id(tensor)]

    def _snapshot(self) -> None:
        import torch

        self._attributes = [(vars(m), dict(vars(m))) for m in self.tree.modules.values()]
        self._contents: list[tuple[Any, Any]] = []
        for _, saved in self._attributes:
            for value in saved.values():
                if type(value) in _CONTAINERS:
                    self._save_contents(value, depth=3)
        self._tensors = [
            (tensor, tensor.data, tensor.requires_grad, tensor.grad)
            for _, _, _, tensor in state_of(self.tree)
            if tensor.is_leaf
        ]
        self._dtype = torch.get_default_dtype()
        self._random = _random_states()

    def _save_contents(self, container: Any, depth: int) -> None:
        if not container:
            self._contents.append((container, None))
            return
        self._contents.append((container, container.copy()))
        if depth and len(container) <= _RECURSE_INTO:
            for item in container.values() if isinstance(container, dict) else container:
                if type(item) in _CONTAINERS:
                    self._save_contents(item, depth - 1)

    def _restore(self) -> None:
        import torch

        for container, saved in self._contents:
            _restore_contents(container, saved)
        for attributes, saved in self._attributes:
            if len(attributes) != len(saved) or any(
                attributes.get(key, _MISSING) is not value for key, value in saved.items()
            ):
                attributes.clear()
                attributes.update(saved)
        with torch.no_grad():
            for storage, values in self._kept.values():
                storage.copy_(values)
        for tensor, data, requires_grad, grad in self._tensors:
            if tensor.data_ptr() != data.data_ptr() or tensor.shape != data.shape:
                tensor.data = data
            if tensor.requires_grad is not requires_grad:
                tensor.requires_grad_(requires_grad)
            if tensor.grad is not grad:
                tensor.grad = grad
        torch.set_default_dtype(self._dtype)
        _restore_random(self._random)


_MISSING = object()


def _restore_contents(container: Any, saved: Any) -> None:
    if saved is None:
        if container:
            container.clear()
    elif isinstance(container, dict):
        if len(container) != len(saved) or any(
            container.get(key, _MISSING) is not value for key, value in saved.items()
        ):
            container.clear()
            container.update(saved)
    elif isinstance(container, set):
        if len(container) != len(saved) or not saved.issubset(container):
            container.clear()
            container.update(saved)
    elif len(container) != len(saved) or any(a is not b for a, b in zip(container, saved, strict=True)):
        container.clear()
        container.extend(saved)


def _random_states() -> dict[str, Any]:
    import torch

    states: dict[str, Any] = {"torch": torch.get_rng_state(), "python": random.getstate()}
    if "numpy" in sys.modules:
        states["numpy"] = sys.modules["numpy"].random.get_state()
    for name in ("cuda", "xpu"):
        accelerator = getattr(torch, name, None)
        if accelerator is not None and accelerator.is_initialized():
            states[name] = accelerator.get_rng_state_all()
    if torch.backends.mps.is_available():
        states["mps"] = torch.mps.get_rng_state()
    return states


def _restore_random(states: dict[str, Any]) -> None:
    import torch

    torch.set_rng_state(states["torch"])
    random.setstate(states["python"])
    if "numpy" in states:
        sys.modules["numpy"].random.set_state(states["numpy"])
    for name in ("cuda", "xpu"):
        if name in states:
            getattr(torch, name).set_rng_state_all(states[name])
    if "mps" in states:
        torch.mps.set_rng_state(states["mps"])


@contextlib.contextmanager
def _interrupt_later() -> Iterator[None]:
    """Hold Ctrl-C back until the block is done; only the main thread receives it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pending: list[tuple[int, Any]] = []
    before = signal.getsignal(signal.SIGINT)
    if not callable(before):
        yield
        return
    signal.signal(signal.SIGINT, lambda number, frame: pending.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if pending:
            before(*pending[0])


@contextlib.contextmanager
def deeper_recursion() -> Iterator[None]:
    """Room for the frames that hooks add, so that a model that survives its own forward survives ours."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(3 * limit + 1000)
    try:
        yield
    finally:
        sys.setrecursionlimit(limit)
