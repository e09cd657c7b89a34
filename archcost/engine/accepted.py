"""Accepted: a call that the program did, and the next one like it, done without a second look.

Code in Python that looks at a call, one property after the other, and that prepares the program's run, is
itself read from memory at every call of a network that fills the caches: that takes longer than some layers.
Where nothing has changed since such a look said yes, one call into compiled code says so, and runs it.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from ctypes import POINTER, c_char_p, c_int, c_int64, c_uint64, c_void_p
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from archcost.engine.places import Watch, inner_place, tags_work, tensors_work
from archcost.engine.program import Program
from archcost.kernels.tensors import checked, loaded

__all__ = ["Accepted", "calls_work"]

_KEYS = "_ZN3c104impl26raw_local_dispatch_key_setE"
"""Dispatch keys that a thread has put in and out: autocast, tracers, vmap, dispatch modes, inference mode."""
_FUNCTIONS = {
    "function_modes": "_ZN2at4impl22PythonTorchFunctionTLS9stack_lenEv",
    "records": "_ZN3c108GradMode10is_enabledEv",
    "data_of": "aoti_torch_get_data_ptr",
    "threads": "_ZN2at15get_num_threadsEv",
}
_MOST_DIMENSIONS = 5
"""The most dimensions whose sizes and strides a tensor keeps within its own object."""
_WORDS = 24
"""Words of eight bytes of a tensor's object (its c10::TensorImpl) that may be read."""
_AT_ONCE, _AT_MOST = 8, 1 << 16
"""Outputs that are made at once, since the first takes longest, and their bytes."""


class _Call(ctypes.Structure):
    """ArchcostCall of src/watch.cpp."""

    _fields_ = [
        ("watches", c_void_p * 3),
        *(("library", c_void_p), ("keys_name", c_char_p), ("keys", c_uint64 * 2)),
        *((name, c_void_p) for name in ("function_modes", "records", "type")),
        *(("tensor", c_int64), ("parts", c_void_p), ("part_count", c_int64), ("description", c_void_p)),
        *((name, c_void_p) for name in ("data_of", "threads", "release", "take", "steps")),
        ("step_count", c_int64),
    ]


Filled = Callable[[list[Tensor], Sequence[Tensor]], Any]

# They keep the interpreter's lock while they look.
_SAME = ctypes.PYFUNCTYPE(c_int, POINTER(_Call), c_void_p)
_CALL = ctypes.PYFUNCTYPE(c_int, POINTER(_Call), c_void_p, c_void_p, c_void_p)


class Accepted:
    """A call with one contiguous tensor, while no gradients were recorded.

    Args:
        x: the tensor.
        watches: what else has to be as it is.
        program: the program that did it.
        filled: puts its outputs into the structure of the model's; None where that is the first of them.
    """

    def __init__(
        self, x: Tensor, *watches: Watch, program: Program | None = None, filled: Filled | None = None
    ) -> None:
        self.program, self._filled = program, filled
        library = loaded()
        self._same = _SAME(("archcost_same_call", library))
        self._call = _CALL(("archcost_call", library))
        (parts, count), description = _parts(x.dim()), _description(x)
        watches = (*watches, _globals())
        steps, step_count = (program and program.native) or (None, 0)
        self._direct = steps is not None and filled is None
        self._alive = (watches, parts, description, steps)
        self._made = _Call(
            watches=tuple(one.address for one in watches),
            library=_library()._handle,
            keys_name=_KEYS.encode(),
            keys=_keys(),
            type=id(Tensor),
            tensor=inner_place(),
            parts=ctypes.addressof(parts),
            part_count=count,
            description=ctypes.addressof(description),
            steps=None if steps is None else ctypes.addressof(steps),
            step_count=step_count,
            **_functions(),
        )
        self._ready: list[tuple[Tensor, int]] = []

    @staticmethod
    def possible(given: list[Tensor]) -> bool:
        """Whether the next call with such tensors need not be looked at as this one was."""
        if len(given) != 1 or torch.is_grad_enabled() or not calls_work():
            return False
        return given[0].is_contiguous() and given[0].dim() <= _MOST_DIMENSIONS

    def again(self, x: object) -> bool:
        """Whether a call with this argument is like that one, and all else as it was."""
        return bool(self._same(self._made, id(x)))

    def run(self, x: object) -> Any:
        """The model's outputs for a call with this argument; None where it is another call."""
        program, ready = self.program, self._ready
        assert program is not None
        if not self._direct:
            if not self.again(x):
                return None
            made = program([x])  # type: ignore[list-item]
            return made[0] if self._filled is None else self._filled(made, [x])  # type: ignore[list-item]
        try:
            output, place = ready.pop()
        except IndexError:  # the first, or another thread took the last
            if not self.again(x):
                return None
            (output, place), *more = program.new_outputs(_AT_ONCE, _AT_MOST)
            ready += more
        failure = self._call(self._made, id(x), program.bases(), place)
        if failure < 0:
            ready.append((output, place))
            return None
        checked(failure)
        return output


@functools.cache
def _functions() -> dict[str, int]:
    found = {name: _address(_library(), symbol) for name, symbol in _FUNCTIONS.items()}
    locks = {"release": "PyEval_SaveThread", "take": "PyEval_RestoreThread"}
    return found | {name: _address(ctypes.pythonapi, symbol) for name, symbol in locks.items()}


def _address(library: ctypes.CDLL, name: str) -> int:
    return ctypes.cast(getattr(library, name), c_void_p).value or 0


@functools.cache
def _library() -> ctypes.CDLL:
    return ctypes.CDLL(torch._C.__file__)


def _keys() -> Any:
    return (c_uint64 * 2).in_dll(_library(), _KEYS)


def _globals() -> Watch:
    """Where hooks of all modules, and the level of forward-mode differentiation, are, as they are now."""
    hooks = [one for name, one in vars(nn.modules.module).items() if name.startswith("_global_")]
    dicts = [vars(nn.modules.module), vars(forward_ad), *(one for one in hooks if isinstance(one, dict))]
    return Watch(dicts)


def _words(x: Tensor) -> list[int]:
    return list((c_int64 * _WORDS).from_address(x._cdata))


@functools.cache
def _places() -> tuple[int, int, int]:
    """Words to the number of dimensions, of elements, and to the dispatch keys in what a tensor points to.

    Raises:
        ValueError: they lie elsewhere.
    """
    sizes, strides = (7, 6, 5, 4, 3), (361, 67, 13, 3, 1)
    x = torch.empty_strided(sizes, strides)
    words, known = _words(x), [len(sizes), *sizes, *strides]
    rank = next((at for at in range(_WORDS) if words[at : at + len(known)] == known), _WORDS)
    numel = words.index(x.numel(), min(rank + len(known), _WORDS))
    return rank, numel, words.index(c_int64(torch._C._dispatch_keys(x).raw_repr()).value, numel + 1)


@functools.cache
def _parts(dimensions: int) -> tuple[Any, int]:
    """Bytes of a tensor that say what it is like: sizes, strides, dtype, and what else dispatch goes by."""
    rank, numel, keys = _places()
    found = [(8 * rank, 8 + 8 * dimensions), (8 * (rank + 1 + _MOST_DIMENSIONS), 8 * dimensions)]
    found += [(8 * numel, 8 + 2), (8 * keys, 8)]
    return (c_int64 * (2 * len(found)))(*(number for part in found for number in part)), len(found)


def _description(x: Tensor) -> Any:
    parts, _ = _parts(x.dim())
    pairs = zip(parts[::2], parts[1::2], strict=True)
    return ctypes.create_string_buffer(b"".join(ctypes.string_at(x._cdata + at, size) for at, size in pairs))


class _Functions(TorchFunctionMode):
    """A mode that does nothing."""


class _Operators(TorchDispatchMode):
    """Another one."""


def calls_work() -> bool:
    """Whether this Python and PyTorch keep things where compiled code looks: tried, on what may change."""
    return tags_work() and tensors_work() and _calls_work()


@functools.cache
def _calls_work() -> bool:
    try:
        with torch.inference_mode(False), torch.no_grad():
            x = torch.zeros(2, 3)
            call = Accepted(x)
            others: list[Any] = [
                *(torch.zeros(3, 2), torch.zeros(2, 3, 1), torch.zeros(3, 2).T, torch.zeros(2, 3).double()),
                *(torch.zeros(2, 3, dtype=torch.int32), torch.zeros(2, 3, device="meta"), x.to_sparse()),
                *(torch._neg_view(x), nn.Parameter(x), None),
            ]
            held = call.again(x) and call.again(torch.ones(2, 3)) and not any(map(call.again, others))
            return held and all(_seen(call, x, mode) for mode in _MODES) and call.again(x)
    except (AttributeError, ValueError):  # it has others
        return False


_MODES: tuple[Callable[[], AbstractContextManager[Any]], ...] = (
    torch.enable_grad,
    torch.inference_mode,
    lambda: torch.autocast("cpu"),
    _Functions,
    _Operators,
)


def _seen(call: Accepted, x: Tensor, mode: Callable[[], AbstractContextManager[Any]]) -> bool:
    with mode():
        return not call.again(x)
