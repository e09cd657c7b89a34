"""The table of execution paths: by name, in the order in which they are presented, open to everyone."""

from __future__ import annotations

from functools import lru_cache

from archcost.errors import ArchcostError, SpecError
from archcost.paths.path import ExecutionPath
from archcost.registry import load_plugins

__all__ = ["available", "get", "register"]

_paths: dict[str, ExecutionPath] = {}


def register(path: ExecutionPath) -> ExecutionPath:
    """Make a path known by its name; a later one replaces an earlier one of the same name.

    Packages do it in a module that they announce as an entry point of the group ``archcost.paths``.
    """
    if not isinstance(path, ExecutionPath) or not isinstance(getattr(path, "name", None), str):
        raise ArchcostError(f"register: {path!r} is no ExecutionPath with a name; register an instance")
    _paths[path.name] = path
    return path


def available() -> tuple[str, ...]:
    """The names of all paths, archcost's own first."""
    load_paths()
    return tuple(_paths)


def get(name: str) -> ExecutionPath:
    """The path of that name.

    Raises:
        SpecError: there is none; the message has those that are spelt alike.
    """
    load_paths()
    if name in _paths:
        return _paths[name]
    import difflib

    close = difflib.get_close_matches(str(name), _paths, n=3)
    hint = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(_paths)}"
    raise SpecError(f"no execution path is called {name!r}; {hint}")


@lru_cache(maxsize=1)
def load_paths() -> None:
    """Import archcost's own paths, then those that installed packages announce."""
    own = dict(_paths)
    _paths.clear()
    from archcost.paths.algorithms import (
        direct,
        fft,
        fft_parts,
        fft_rows,
        im2col,
        native,
        nnpack,
        prepacked,
        strassen,
        winograd,
    )

    for module in (native, prepacked, nnpack, direct, im2col, strassen, winograd, fft, fft_rows, fft_parts):
        for path in module.PATHS:
            register(path)
    load_plugins("archcost.paths", "execution paths")
    _paths.update(own)  # what the user registered before the first look-up wins
