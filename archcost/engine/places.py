"""Places: addresses in memory that compiled code looks at in one call, where Python would take one by one."""

from __future__ import annotations

import ctypes
import functools
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from archcost.kernels.tensors import loaded

__all__ = ["Fetched", "Places", "elements", "lines_of", "tag_places", "tags_work"]

Addresses = np.ndarray[Any, np.dtype[np.int64]]

_FEW = 4096
_SPOTS, _SPOTS_OF_FEW = (3, 4), (1, 6)
"""Spots of a tensor, and of one of few elements, and neighbours that are looked at there: another spot is on another
page of memory, which takes most of the time."""
_LINE = 64
_TAG = 24
"""Where a dict of CPython keeps the number that changes whenever it does (PEP 509): up to 3.13."""


class Places:
    """Four bytes at each of some addresses, as one number."""

    def __init__(self, addresses: Addresses) -> None:
        self._places, self._count = _array(addresses), len(addresses)
        self._call = loaded().archcost_fingerprint
        self._digest = self._call(self._places, self._count)

    def hold(self) -> bool:
        """Whether the number is as it was."""
        return bool(self._call(self._places, self._count) == self._digest)

    def renewed(self) -> Places:
        """The same places as they are now."""
        found = object.__new__(Places)
        vars(found).update(vars(self))
        found._digest = self._call(self._places, self._count)
        return found


class Fetched:
    """Cache lines that are fetched side by side, before Python reads them one after the other."""

    def __init__(self, addresses: Iterable[int]) -> None:
        lines = np.unique(np.fromiter(addresses, np.int64) // _LINE) * _LINE
        self._places, self._count = _array(lines), len(lines)
        self._call = loaded().archcost_prefetch

    def fetch(self) -> None:
        self._call(self._places, self._count)


def _array(addresses: Addresses) -> Any:
    return (ctypes.c_void_p * len(addresses)).from_buffer_copy(addresses.astype(np.int64).tobytes())


def elements(tensor: Tensor) -> Addresses:
    """Addresses of some elements, spread over a tensor."""
    size, count = tensor.element_size(), tensor.numel()
    if count * size < 4 or (size < 4 and not tensor.is_contiguous()):
        return np.zeros(0, np.int64)
    spots, together = _SPOTS if count > _FEW else _SPOTS_OF_FEW
    first = (np.linspace(0.5 / spots, 1 - 0.5 / spots, spots) * max(count - together, 0)).astype(np.int64)
    picked = np.unique(np.add.outer(first, np.arange(together)) % count)
    if tensor.is_contiguous():
        return tensor.data_ptr() + np.minimum(picked * size, count * size - 4)
    axes: Sequence[Any] = np.unravel_index(picked, tuple(tensor.shape))
    found: Addresses = tensor.data_ptr() + size * sum(
        axis * step for axis, step in zip(axes, tensor.stride(), strict=True)
    )
    return found


def lines_of(tensor: Tensor) -> list[int]:
    """Addresses that PyTorch goes through to tell a tensor's version and address; others do no harm."""
    inner: int = tensor._cdata
    words = (ctypes.c_int64 * 8).from_address(inner)  # it is larger than that
    return [id(tensor), inner, inner + _LINE, *(word for word in words if word > 1 << 16)]


def tag_places(dicts: Iterable[dict[str, Any]]) -> Addresses:
    """The addresses of the tags of dicts."""
    first = np.fromiter(map(id, dicts), np.int64) + _TAG
    return np.concatenate([first, first + 4])


class _Some:
    """An object with attributes."""


@functools.cache
def tags_work() -> bool:
    """Whether this Python keeps such a tag: tried, on the changes that there are."""
    if sys.implementation.name != "cpython" or sys.maxsize < 2**32 or sys.version_info >= (3, 14):
        return False
    some = _Some()
    some.a = 1  # type: ignore[attr-defined]
    changes: tuple[Callable[[Any], object], ...] = (
        lambda held: held.update(a=object()),
        lambda held: held.__setitem__("b", object()),
        lambda held: held.pop("b"),
        lambda held: held.setdefault("c", 2),
        lambda held: held.__delitem__("c"),
        lambda held: held.clear(),
    )
    for held in (vars(some), {"a": 1}, OrderedDict(a=1)):
        for change in changes:
            tags = Places(tag_places([held]))
            if not tags.hold():
                return False
            change(held)
            if tags.hold():
                return False
    tags = Places(tag_places([vars(some)]))
    some.a = 2  # type: ignore[attr-defined]
    return not tags.hold()
