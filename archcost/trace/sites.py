"""Construction sites: the line of code that built each module, with the calls that led there.

PyTorch does not keep it. While `recording_sites` is active, a wrapper around ``nn.Module.__init__`` notes the
stack of each construction in the thread that entered it. A module built elsewhere (unpickled, deep-copied)
has the line of its class instead, a library's layer that of the user's class around it.
"""

from __future__ import annotations

import functools
import linecache
import os
import re
import sys
import sysconfig
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from types import CodeType, FrameType, TracebackType
from typing import TYPE_CHECKING, Concatenate, ParamSpec

if TYPE_CHECKING:
    from torch import nn

P = ParamSpec("P")

__all__ = ["Frame", "Site", "inherit_sites", "is_library", "recording_sites", "sites_of"]

_OWN = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_MOST_FRAMES = 64


@dataclass(frozen=True, slots=True)
class Frame:
    """A line of code: a call in a function, or the head of a class."""

    file: str
    """Relative to the working directory, or for a library to the folder of its packages; else absolute."""
    line: int
    column: int | None
    """From 1, in characters; None before Python 3.11 and for a class."""
    function: str
    """The qualified name of the function (or class), ``<module>`` at the top of a file."""
    is_library: bool
    """Whether the file belongs to an installed package or to Python itself."""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" + (f":{self.column}" if self.column else "")


@dataclass(frozen=True, slots=True)
class Site:
    """The construction site of a module.

    ``frames`` are the calls that built it, the innermost first, up to the factory. Where its construction
    was not recorded, ``is_class`` is true and the only frame is the head of its class.
    """

    frames: tuple[Frame, ...]
    is_class: bool = False

    @property
    def frame(self) -> Frame:
        """The innermost frame of the user's own code; the innermost of all where every one is a library's."""
        return next((frame for frame in self.frames if not frame.is_library), self.frames[0])

    def __str__(self) -> str:
        """``net.py:42:9``, or ``net.py:10 (class Net)``."""
        return f"{self.frame} (class {self.frame.function})" if self.is_class else str(self.frame)


_Call = tuple[CodeType, int, int]
"""Code, the offset of its instruction in bytes, and its line."""

_lock = threading.Lock()
_active: dict[int, list[FrameType]] = {}
"""Thread -> the frames that entered `recording_sites` there, the outermost first."""
_built: dict[int, tuple[weakref.ref[nn.Module], tuple[_Call, ...]]] = {}
"""id of a module -> the module and its calls; only that module itself is found by its id."""
_wrapped: tuple[Callable[..., None], Callable[..., None]] | None = None
"""The ``nn.Module.__init__`` that was replaced, and its wrapper."""


class recording_sites:
    """Record where modules are built, for the column ``built_at`` of an Analysis.

    ::

        with archcost.recording_sites():
            model = Net()
        print(archcost.analyze(model).to_text(columns=["macs", "built_at"]))

    Only modules built in the same thread are recorded. A model from a SPEC is always recorded.
    """

    def __enter__(self) -> recording_sites:
        _start(sys._getframe(1))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _stop()


def _start(frame: FrameType) -> None:
    global _wrapped
    from torch import nn

    with _lock:
        _active.setdefault(threading.get_ident(), []).append(frame)
        if _wrapped is None:
            original: Callable[..., None] = nn.Module.__init__

            init = _noting(original)
            _wrapped = original, init
            nn.Module.__init__ = init  # type: ignore[assignment, method-assign]


def _noting(original: Callable[Concatenate[nn.Module, P], None]) -> Callable[Concatenate[nn.Module, P], None]:
    @functools.wraps(original)
    def init(module: nn.Module, /, *args: P.args, **kwargs: P.kwargs) -> None:
        _note(module)
        original(module, *args, **kwargs)

    return init


def _stop() -> None:
    global _wrapped
    from torch import nn

    with _lock:
        entered = _active[threading.get_ident()]
        entered.pop()
        if not entered:
            del _active[threading.get_ident()]
        if not _active and _wrapped is not None:
            original, init = _wrapped
            _wrapped = None
            # A wrapper that other code put around this one stays; this one then notes nothing.
            if nn.Module.__init__ is init:
                nn.Module.__init__ = original  # type: ignore[method-assign]


def _note(module: nn.Module) -> None:
    """Keep the stack that constructs the module, without the frames of its own constructors."""
    entered = _active.get(threading.get_ident())
    if not entered:
        return
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and _constructs(frame, module):
        frame = frame.f_back
    calls: list[_Call] = []
    while frame is not None and len(calls) < _MOST_FRAMES:
        code = frame.f_code
        if not code.co_filename.startswith((_OWN, "<frozen ")):
            calls.append((code, frame.f_lasti, frame.f_lineno))
        if frame is entered[0]:
            break
        frame = frame.f_back
    if calls:
        _keep(module, tuple(calls))


def _keep(module: nn.Module, calls: tuple[_Call, ...]) -> None:
    key = id(module)

    def forget(_: weakref.ref[nn.Module]) -> None:
        _built.pop(key, None)

    _built[key] = weakref.ref(module, forget), calls


def _constructs(frame: FrameType, module: nn.Module) -> bool:
    """Whether a frame belongs to the construction of the module: its first argument is it, or its class."""
    code = frame.f_code
    if not code.co_varnames or not (code.co_argcount or code.co_flags & 0x04):  # 0x04: *args
        return False
    first = frame.f_locals.get(code.co_varnames[0])
    if not code.co_argcount and isinstance(first, tuple) and first:
        first = first[0]
    return first is module or (first is type(module) and code.co_name in ("__call__", "__new__"))


def inherit_sites(copied: nn.Module, original: nn.Module) -> None:
    """Give the modules of a deep copy the construction sites of the original's."""
    for new, old in zip(copied.modules(), original.modules(), strict=True):
        found = _built.get(id(old))
        if found is not None and found[0]() is old:
            _keep(new, found[1])


def sites_of(modules: dict[str, nn.Module]) -> dict[str, Site]:
    """The construction site of each module by name, or the line of its class, where either is known."""
    frames: dict[tuple[int, int], Frame] = {}
    found: dict[str, Site] = {}
    for name, module in modules.items():
        kept = _built.get(id(module))
        if kept is not None and kept[0]() is module:
            found[name] = Site(tuple(_frame(call, frames) for call in kept[1]))
        elif (head := _own_class(name, modules)) is not None:
            found[name] = Site((head,), is_class=True)
    return found


def _own_class(name: str, modules: dict[str, nn.Module]) -> Frame | None:
    """The head of a module's class; of a library's layer, that of the user's nearest module around it."""
    own = head = _class_frame(type(modules[name]))
    while name and (head is None or head.is_library):
        name = name.rpartition(".")[0]
        head = _class_frame(type(modules[name])) if name in modules else None
    return own if head is None or head.is_library else head


def _frame(call: _Call, frames: dict[tuple[int, int], Frame]) -> Frame:
    code, offset, line = call
    key = id(code), offset
    if key not in frames:
        file, is_library = _shown(code.co_filename)
        column = None
        if sys.version_info >= (3, 11):
            start, _, first, _ = next(islice(code.co_positions(), offset // 2, None))
            if start is not None and first is not None:
                text = linecache.getline(code.co_filename, start).encode()
                line, column = start, len(text[:first].decode(errors="replace") or " " * first) + 1
        frames[key] = Frame(file, line, column, _qualified(code), is_library)
    return frames[key]


_heads: weakref.WeakKeyDictionary[type, tuple[str, int] | None] = weakref.WeakKeyDictionary()
"""File and line of the head of each class; how the file is shown depends on the working directory."""


def _class_frame(of: type) -> Frame | None:
    if of not in _heads:
        _heads[of] = _find_class(of)
    found = _heads[of]
    if found is None:
        return None
    shown, library = _shown(found[0])
    return Frame(shown, found[1], None, of.__qualname__, library)


def _find_class(of: type) -> tuple[str, int] | None:
    """The head of a class in its source; its first function where that cannot be found."""
    codes = [code for v in vars(of).values() if isinstance(code := getattr(v, "__code__", None), CodeType)]
    own = [code for code in codes if _qualified(code).startswith((of.__qualname__, code.co_name))]
    file = own[0].co_filename if own else getattr(sys.modules.get(of.__module__), "__file__", None)
    if not file:
        return None
    first = min((code.co_firstlineno for code in own), default=sys.maxsize)
    head = re.compile(rf"\s*class\s+{re.escape(of.__name__)}\b")
    numbers = [n for n, text in enumerate(linecache.getlines(file)[:first], 1) if head.match(text)]
    return (file, numbers[-1] if numbers else first) if numbers or own else None


def _qualified(code: CodeType) -> str:
    """The qualified name of a function, before Python 3.11 its name alone."""
    return str(getattr(code, "co_qualname", code.co_name))


@functools.cache
def _library_folders() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    return tuple(paths[key] for key in ("purelib", "platlib", "stdlib", "platstdlib"))


def is_library(file: str) -> bool:
    """Whether a file belongs to an installed package, to Python itself, or to archcost."""
    return file.startswith(_OWN) or _shown(file)[1]


def _shown(file: str) -> tuple[str, bool]:
    """A file as it is shown, and whether it is a library's."""
    if not os.path.isabs(file):
        return file, False
    for mark in ("site-packages", "dist-packages"):
        _, found, rest = file.rpartition(f"{os.sep}{mark}{os.sep}")
        if found:
            return rest.replace(os.sep, "/"), True
    for folder in _library_folders():
        if file.startswith(folder + os.sep):
            return os.path.relpath(file, folder).replace(os.sep, "/"), True
    here = os.getcwd() + os.sep
    return (file[len(here) :] if file.startswith(here) else file).replace(os.sep, "/"), False
