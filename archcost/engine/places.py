"""Places: where Python and PyTorch keep what a model is made of, looked at in one call into compiled code."""

from __future__ import annotations

import ctypes
import functools
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from ctypes import POINTER, c_int, c_int64, c_uint64, c_void_p
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from archcost.kernels.tensors import loaded

__all__ = ["Watch", "inner_place", "tags_work", "tensors_work"]

_LINE = 64
_SPOTS, _SINGLE = ((1 << 12, 1), (1 << 14, 2), (1 << 60, 3)), 12
"""Cache lines of tensors up to so many bytes that are looked at, and elements of one with gaps: what lies far
apart takes time to reach."""
_TAG = 24
"""Where a dict of CPython keeps the number that changes whenever it does (PEP 509): up to 3.13."""
_SYMBOLS = ("_ZNK2at10TensorBase8_versionEv", "aoti_torch_get_data_ptr")
"""at::TensorBase::_version, and the address of the elements."""
_READ = {"tensor": ((16, 32), (152, 32)), "storage": ((16, 48),), "counter": ((8, 16),)}
"""Where these read PyTorch's objects, and how many bytes; what is not there takes longer, that is all."""

Bytes = tuple[int, int]
"""An address, and how many bytes from there, of one cache line."""


class _Watch(ctypes.Structure):
    """ArchcostWatch of src/watch.cpp."""

    _fields_ = [
        *(("lines", c_void_p), ("line_count", c_int64)),
        *(("tags", c_void_p), ("tag_count", c_int64), ("tag_digest", c_uint64)),
        *(("tensors", c_void_p), ("tensor_count", c_int64)),
        *(("version_of", c_void_p), ("data_of", c_void_p)),
        *(("elements", c_void_p), ("element_count", c_int64), ("element_digest", c_uint64)),
    ]


# They keep the interpreter's lock: nothing that they read is freed meanwhile.
_HOLDS = ctypes.PYFUNCTYPE(c_int, POINTER(_Watch))
_DIGEST = ctypes.PYFUNCTYPE(c_uint64, c_void_p, c_int64)
_VERSION_OF = ctypes.PYFUNCTYPE(c_int64, c_void_p)
_DATA_OF = ctypes.PYFUNCTYPE(c_int, c_void_p, POINTER(c_void_p))


class Watch:
    """Dicts, and tensors' addresses, numbers of writes and some elements: whether they are as they were.

    Args:
        dicts: compared by a number that Python keeps, where it does, and by the caller where that
            has changed.
        tensors: on the CPU and strided.
    """

    _TAGS, _TENSORS = 1, 2

    def __init__(self, dicts: Sequence[dict[str, Any]], tensors: Sequence[Tensor] = ()) -> None:
        library = loaded()
        self._look = _HOLDS(("archcost_watch", library))
        self._digest = _DIGEST(("archcost_digest_of_tags", library))
        digest_of_elements = _DIGEST(("archcost_digest_of_elements", library))
        # Aliases hold on to the memory, so that no other tensor can come to lie at the same place.
        self._alive = (list(dicts), list(tensors), [tensor.detach() for tensor in tensors])
        self._tagged = tags_work()
        native = tensors_work()
        tags = np.asarray(sorted(id(one) + _TAG for one in dicts if self._tagged), np.int64)
        elements = _table(sorted(part for tensor in tensors for part in _elements(tensor)), 2)
        known = _table([_known(tensor) for tensor in tensors] if native else [], 3)
        behind = [line for tensor in tensors if native for line in _behind(tensor)]
        lines = (
            np.unique(np.concatenate([tags, elements[:, 0], np.asarray(behind, np.int64)]) // _LINE) * _LINE
        )
        self._tables = (lines, tags, known, elements)
        self._made = _Watch(
            *(lines.ctypes.data, len(lines)),
            *(tags.ctypes.data, len(tags), self._digest(tags.ctypes.data, len(tags))),
            *(known.ctypes.data, len(known)),
            *(_functions() if native else (None, None)),
            *(elements.ctypes.data, len(elements), digest_of_elements(elements.ctypes.data, len(elements))),
        )
        self._numbers = None if native else _numbers(tensors)

    @property
    def address(self) -> int:
        """The address of what compiled code reads; it stays as long as this does."""
        return ctypes.addressof(self._made)

    def holds(self, same: Callable[[], bool]) -> bool:
        """Whether all is as it was.

        Args:
            same: whether the dicts are, in so far as it matters; asked where they may have changed.
        """
        if self._numbers is not None and _numbers(self._alive[1]) != self._numbers:
            return False
        changed = self._look(self._made)
        if self._tagged and not changed:
            return True
        if changed & self._TENSORS:
            return False
        now = self._digest(self._made.tags, self._made.tag_count)
        if not same():
            return False
        self._made.tag_digest = now
        return True


def _table(rows: Sequence[tuple[int, ...]], width: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.asarray(rows, np.int64).reshape(len(rows), width)


def _numbers(tensors: Iterable[Tensor]) -> list[int]:
    return [number for tensor in tensors for number in (_version(tensor), tensor.data_ptr())]


def _version(tensor: Tensor) -> int:
    return -1 if tensor.is_inference() else tensor._version  # whose writes are not counted


def _known(tensor: Tensor) -> tuple[int, int, int]:
    """ArchcostTensor of src/watch.cpp."""
    return id(tensor) + _layout()[0], _version(tensor), tensor.data_ptr()


def _elements(tensor: Tensor) -> Iterator[Bytes]:
    """Some elements, spread over a tensor, by whole cache lines where they lie close together."""
    size, count, begin = tensor.element_size(), tensor.numel(), tensor.data_ptr()
    axes = list(zip(tensor.shape, tensor.stride(), strict=True))
    if count and sum((length - 1) * step for length, step in axes) == count - 1:  # without gaps
        end = begin + size * count
        first, after = begin // _LINE, (end - 1) // _LINE + 1
        spots = min(next(spots for most, spots in _SPOTS if size * count <= most), after - first)
        for spot in range(spots):
            line = (first + (after - first) * (2 * spot + 1) // (2 * spots)) * _LINE
            low, high = max(line, begin), min(line + _LINE, end)
            yield low, high - low
    else:
        spots = min(_SINGLE, count)
        for spot in range(spots):
            index, offset = count * (2 * spot + 1) // (2 * spots), 0
            for length, step in reversed(axes):
                index, at = divmod(index, length)
                offset += at * step
            yield begin + size * offset, size


def _behind(tensor: Tensor) -> Iterator[int]:
    """Cache lines of a tensor's objects: to fetch an address does no harm, whatever it is."""
    inner: int = tensor._cdata
    words = (c_int64 * 8).from_address(inner)  # it is larger than that
    place, storage, counter = _layout()
    yield (id(tensor) + place) // _LINE * _LINE
    for start, parts in (
        (inner, _READ["tensor"]),
        (words[storage], _READ["storage"]),
        (words[counter], _READ["counter"]),
    ):
        for first, size in parts:
            yield from range((start + first) // _LINE * _LINE, start + first + size, _LINE)


@functools.cache
def _functions() -> tuple[int, ...]:
    """The addresses of PyTorch's functions.

    Raises:
        AttributeError: it has others.
    """
    library = ctypes.CDLL(torch._C.__file__)
    found = (ctypes.cast(getattr(library, name), c_void_p).value for name in _SYMBOLS)
    return tuple(address or 0 for address in found)


@functools.cache
def _layout() -> tuple[int, int, int]:
    """Bytes to the at::Tensor in a tensor's Python object, and words to the storage and the count of writes
    in what that points to.

    Raises:
        ValueError: they lie elsewhere.
    """
    one, other = (_few() for _ in range(2))
    held = list((c_int64 * (Tensor.__basicsize__ // 8)).from_address(id(one)))
    words, alias, others = (list((c_int64 * 8).from_address(x._cdata)) for x in (one, one.detach(), other))
    storage = words.index(one.untyped_storage()._cdata)
    shared = (i for i in range(8) if words[i] == alias[i] != others[i] and i != storage)
    return 8 * held.index(one._cdata), storage, next(shared, storage)


def inner_place() -> int:
    """Bytes to the at::Tensor in a tensor's Python object."""
    return _layout()[0]


def tensors_work() -> bool:
    """Whether PyTorch's tensors are where compiled code finds them: tried, on the changes that there are."""
    if torch._C._len_torch_dispatch_stack() or torch._C._len_torch_function_stack():
        return False  # tensors made now may be others
    return _tensors_work()


@functools.cache
def _tensors_work() -> bool:
    if sys.implementation.name != "cpython" or sys.maxsize < 2**32:
        return False
    changes: tuple[Callable[[Any], object], ...] = (
        lambda x: x,
        lambda x: x.add_(1),
        lambda x: setattr(x, "data", _few()),
        lambda x: torch._C._swap_tensor_impl(x, _few().add_(1)),
    )
    with torch.inference_mode(False), torch.no_grad():
        try:
            version_of, data_of = _functions()
            for x in (_few(), nn.Parameter(_few()), nn.Buffer(_few())):
                place, data = id(x) + _layout()[0], c_void_p()
                for change in changes:
                    change(x)
                    failed = _DATA_OF(data_of)(place, ctypes.byref(data))
                    if failed or (_VERSION_OF(version_of)(place), data.value) != (x._version, x.data_ptr()):
                        return False
        except (AttributeError, ValueError):  # they lie elsewhere, or are called otherwise
            return False
    return True


def _few() -> Tensor:
    return torch.zeros(20, device="cpu")


class _Some:
    """An object with attributes."""


@functools.cache
def tags_work() -> bool:
    """Whether this Python keeps a number for each dict that changes with it: tried likewise."""
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
        lambda held: some.__setattr__("a", 2),
    )
    for held in ({"a": 1}, OrderedDict(a=1), vars(some)):
        for change in changes[: None if held is vars(some) else -1]:
            before = _tag(held)
            if _tag(held) != before:
                return False
            change(held)
            if _tag(held) == before:
                return False
    return True


def _tag(held: dict[str, Any]) -> int:
    return c_int64.from_address(id(held) + _TAG).value
