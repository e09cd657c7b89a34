"""Finds the compiled kernels and chooses the library for this machine's processor."""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from ctypes import POINTER, Structure, c_char_p, c_float, c_int, c_int64, c_void_p
from pathlib import Path

from archcost.errors import ArchcostError

__all__ = [
    "Images",
    "Place",
    "Problem",
    "Step",
    "disabled",
    "isa",
    "library",
    "release_scratch",
    "scratch_bytes_kept",
    "usable_isas",
    "why_not",
]

_LIBRARIES = Path(__file__).parent / "_lib"
# In the order in which a processor comes to have them. The first one built tells which one is best here.
_ISAS = ("neon", "baseline", "avx2", "avx512")


def _path(isa: str) -> Path:
    return _LIBRARIES / f"archcost_kernels_{isa}.so"


@functools.cache
def _built() -> list[str]:
    return [isa for isa in _ISAS if _path(isa).exists()]


class Images(Structure):
    """ArchcostImages of src/convolution.h."""

    _fields_ = [
        (name, c_int64)
        for name in (
            *("batch", "channels", "height", "width"),
            *("batch_stride", "channel_stride", "row_stride", "column_stride", "block_stride"),
        )
    ]


class Step(Structure):
    """ArchcostStep of src/program.h."""

    _fields_ = [
        ("function", c_void_p),
        ("arguments", c_void_p),
        ("places", c_void_p),
        ("count", c_int64),
    ]


class Place(Structure):
    """ArchcostPlace of src/program.h."""

    _fields_ = [("base", c_int64), ("offset", c_int64)]


class Problem(Structure):
    """ArchcostConvolution of src/convolution.h."""

    _fields_ = [
        ("input", Images),
        ("output", Images),
        *((name, c_int64) for name in ("pad_top", "pad_left", "threads", "block_tiles")),
        *((name, c_float) for name in ("low", "high")),
    ]


_PROBLEM = POINTER(Problem)
_BUFFERS = [c_void_p] * 4  # input, packed weights, bias, output
_TILE = [c_int, c_int64, c_int64]  # family, and the two numbers that name a tile of it
_WINDOW = [c_int64] * 6  # taps, strides and dilations, vertical and horizontal

# The result and the arguments of each function of src/interface.cpp.
_FUNCTIONS = {
    "archcost_sources": (c_char_p, []),
    "archcost_isa": (c_char_p, []),
    "archcost_best_isa": (c_char_p, []),
    "archcost_scratch_bytes": (c_int64, []),
    "archcost_release_scratch": (None, []),
    "archcost_prefer_huge_pages": (None, [c_void_p, c_int64]),
    "archcost_lanes": (c_int64, []),
    "archcost_multiply_add": (c_int64, [c_int64, c_int64]),
    "archcost_read": (c_int64, [c_void_p, c_int64, c_int64, c_int64]),
    "archcost_run": (c_int, [POINTER(Step), c_int64, POINTER(c_void_p), c_int64, POINTER(c_int64)]),
    "archcost_winograd_tile": (c_int, [c_int, POINTER(c_int64)]),
    "archcost_fft_size": (c_int64, [c_int64]),
    "archcost_depthwise_size": (c_int64, [c_int64] * 4),
    "archcost_max_pool": (c_int, [*_WINDOW, _PROBLEM, c_void_p, c_void_p]),
    "archcost_tiles_added": (c_int, [*_TILE, _PROBLEM, *_BUFFERS, c_void_p]),
    "archcost_im2col_added": (c_int, [*_WINDOW, _PROBLEM, *_BUFFERS, c_void_p]),
    "archcost_depthwise_direct_packed_floats": (c_int64, [*_WINDOW, c_int64]),
    "archcost_depthwise_direct_pack": (c_int, [*_WINDOW, c_int64, c_void_p, c_void_p]),
    "archcost_depthwise_direct": (c_int, [*_WINDOW, _PROBLEM, *_BUFFERS, c_void_p]),
}
_FUNCTIONS |= {
    "archcost_direct_packed_floats": (c_int64, [POINTER(c_int64), c_int64, c_int64]),
    "archcost_linear_packed_floats": (c_int64, [c_int64, c_int64]),
    "archcost_linear_pack": (None, [c_int64, c_int64, c_int64, c_void_p, c_void_p, c_void_p]),
    "archcost_inverted_residual_packed_floats": (c_int64, [c_int64, c_int64]),
    "archcost_inverted_residual_pack": (None, [c_int64, c_int64, c_void_p, c_void_p]),
    "archcost_grouped_packed_floats": (c_int64, [c_void_p, c_int64, c_int64]),
    "archcost_grouped_pack": (None, [c_void_p, c_int64, c_int64, c_void_p, c_void_p]),
    "archcost_squeeze_packed_floats": (c_int64, [c_int64, c_int64]),
    "archcost_squeeze_pack": (None, [c_int64, c_int64, *[c_void_p] * 5]),
    "archcost_direct_pack": (None, [POINTER(c_int64), c_int64, c_int64, c_int64, c_void_p, c_void_p]),
}
# Of the others four functions each, by the numbers that settle the weights and those of a call.
for _name, _weights, _call in (
    ("tiles", [*_TILE, c_int64, c_int64], _TILE),
    ("depthwise", [c_int64] * 4, [c_int64] * 3),
    ("long_row", [c_int64] * 4, [c_int64] * 3),
    ("im2col", [*_WINDOW, c_int64, c_int64], _WINDOW),
):
    _FUNCTIONS |= {
        f"archcost_{_name}_packed_floats": (c_int64, _weights),
        f"archcost_{_name}_pack": (c_int, [*_weights, c_void_p, c_void_p]),
        f"archcost_{_name}_scratch_floats": (c_int64, [*_call, _PROBLEM]),
        f"archcost_{_name}": (c_int, [*_call, _PROBLEM, *_BUFFERS]),
    }


@functools.cache
def _open(isa: str) -> ctypes.CDLL:
    from archcost.kernels.build import digest  # here, since that module is run as a program as well

    path = _path(isa)
    try:
        found = ctypes.CDLL(str(path))
        for name, (result, arguments) in _FUNCTIONS.items():
            function = getattr(found, name)
            function.restype, function.argtypes = result, arguments
        stale = found.archcost_sources().decode() != digest()
    except AttributeError:
        stale = True
    except OSError as error:
        raise ArchcostError(f"cannot load the kernels from {path}: {error}") from error
    if stale:
        raise ArchcostError(
            f"the kernels in {path} were built from other sources; `python -m archcost.kernels.build` or a "
            f"new install builds them again"
        )
    return found


_switched_off: ContextVar[bool] = ContextVar("archcost_kernels_switched_off", default=False)


@contextmanager
def disabled() -> Iterator[None]:
    """Switch the kernels off in this thread or task, to compare or to test the code that replaces them.

    Weights that were packed before cannot be used inside.
    """
    token = _switched_off.set(True)
    try:
        yield
    finally:
        _switched_off.reset(token)


def _choice() -> tuple[str | None, str | None]:
    """The set of instructions in use, or None and the reason."""
    if _switched_off.get():
        return None, "switched off by archcost.kernels.disabled()"
    if os.environ.get("ARCHCOST_NO_KERNELS", "") not in ("", "0"):
        return None, "switched off by ARCHCOST_NO_KERNELS"
    return _installed()


@functools.cache
def _installed() -> tuple[str | None, str | None]:
    built = _built()
    if not built:
        noted = _LIBRARIES / "why_not.txt"
        reason = noted.read_text(encoding="utf-8") if noted.exists() else f"no library in {_LIBRARIES}"
        return (
            None,
            f"not built: {reason}. With a C++ compiler, `python -m archcost.kernels.build` builds them",
        )
    try:
        best = _open(built[0]).archcost_best_isa().decode()
        _open(best)
    except ArchcostError as error:
        return None, str(error)
    return best, None


def isa() -> str | None:
    """The set of instructions in use: ``avx512``, ``avx2``, ``baseline``, ``neon``; None without kernels."""
    return _choice()[0]


def usable_isas() -> tuple[str, ...]:
    """The built instruction sets that this machine can execute, the best last."""
    best = isa()
    if best is None:
        return ()
    return tuple(name for name in _built() if _ISAS.index(name) <= _ISAS.index(best))


def why_not() -> str | None:
    """Why there are no kernels; None when there are."""
    return _choice()[1]


def library(isa: str | None = None) -> ctypes.CDLL | None:
    """The loaded library, of this machine's best set of instructions or of one of `usable_isas`.

    None without kernels: `why_not` says why.
    """
    best, _ = _choice()
    if best is None:
        return None
    if isa not in (None, best) and isa not in usable_isas():
        raise ArchcostError(f"no kernels for {isa!r} here; there are {', '.join(usable_isas())}")
    return _open(isa or best)


def scratch_bytes_kept() -> int:
    """Bytes of working memory that the kernels keep for their next call."""
    return sum(_open(name).archcost_scratch_bytes() for name in usable_isas())


def release_scratch() -> None:
    """Give the kernels' working memory back to the system."""
    for name in usable_isas():
        _open(name).archcost_release_scratch()
