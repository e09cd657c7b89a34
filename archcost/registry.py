"""Registries of rules and paths, by operator or by name; archcost, plugins and users add entries.

An entry has one of three sources: archcost's own files, all in one folder; a plugin, which is the module
that an installed package names in an entry point; or the user. Under the same name the user's entry takes
precedence, then the plugin's. Own files and plugins are loaded at the first look-up; plugins that fail to
load are listed in `broken`.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from math import inf
from threading import RLock
from types import ModuleType
from typing import Any, Generic, TypeVar

from archcost.errors import ArchcostError, SpecError

__all__ = ["Broken", "NameRegistry", "OperatorRegistry", "candidates", "forms"]

T = TypeVar("T")
F = TypeVar("F")


@dataclass(frozen=True)
class Broken:
    """A plugin that could not be loaded; ``str`` gives the note for users."""

    what: str
    """The kind of entries that the plugin provides, such as ``counting rules``."""
    group: str
    """The group of its entry point."""
    package: str
    entry: str
    """The name of its entry point."""
    error: str
    """Type and message of the exception."""

    def __str__(self) -> str:
        plugin = f"{self.what} of {self.package} (entry point {self.entry!r} of {self.group})"
        return f"the {plugin} cannot be loaded: {self.error}; update or uninstall it"


@dataclass
class _State(Generic[T]):
    """The entries of a registry by their sources, and the sources that are loaded."""

    own: dict[str, T] = field(default_factory=dict)
    plugins: dict[str, T] = field(default_factory=dict)
    users: dict[str, T] = field(default_factory=dict)
    broken: tuple[Broken, ...] = ()
    loaded: frozenset[str] = frozenset()


_all: list[_Registry[Any]] = []
_lock = RLock()


class _Registry(Generic[T]):
    """The base class of both registries.

    Args:
        what: the kind of entries, in the plural: ``counting rules``.
        home: the package whose files hold archcost's own entries.
        group: the group of the entry points of plugins.
    """

    _in_plugin = False
    """Whether a plugin is being loaded, by any registry: its module may add entries to several."""

    def __init__(self, what: str, *, home: str, group: str) -> None:
        self.what, self.home, self.group = what, home, group
        self._state: _State[T] = _State()
        self._entries: dict[str, T] | None = None
        _all.append(self)

    @property
    def entries(self) -> Mapping[str, T]:
        """All entries by their names, archcost's own first."""
        if self._entries is None:
            with _lock:
                self._once("own", self._load_own)
                self._once("plugins", self._load_plugins)
                self._entries = {**self._state.own, **self._state.plugins, **self._state.users}
        return self._entries

    @property
    def broken(self) -> tuple[Broken, ...]:
        """The plugins that could not be loaded."""
        with _lock:
            self._once("plugins", self._load_plugins)
        return self._state.broken

    @property
    def notes(self) -> tuple[str, ...]:
        """A note on each plugin that could not be loaded, for a result."""
        return tuple(map(str, self.broken))

    @contextmanager
    def temporarily(self, *, fresh: bool = False) -> Iterator[None]:
        """A context manager that removes the entries registered inside it.

        Args:
            fresh: start with archcost's own entries only, and load plugins again.
        """
        self.entries  # noqa: B018 - entries loaded for the first time inside would be lost
        before = self._state
        own, plugins, users = dict(before.own), dict(before.plugins), dict(before.users)
        inside = _State(own) if fresh else _State(own, plugins, users, before.broken, before.loaded)
        self._state, self._entries = inside, None
        try:
            yield
        finally:
            self._state, self._entries = before, None

    def _add(self, name: str, entry: T, by: str = "") -> None:
        """Add an entry; ``by`` is the name of the module that registers it."""
        with _lock:
            state = self._state
            is_own = by.startswith(f"{self.home}.")
            side = state.own if is_own else state.plugins if _Registry._in_plugin else state.users
            side[name] = entry
            self._entries = None

    def _once(self, side: str, load: Callable[[], None]) -> None:
        if side not in self._state.loaded:
            # Marked before loading, since the modules loaded may look something up.
            self._state.loaded |= {side}
            try:
                load()
            except BaseException:
                self._state.loaded -= {side}
                raise
            finally:
                self._entries = None

    def _load_own(self) -> None:
        self._modules()

    def _modules(self) -> list[ModuleType]:
        """The modules of archcost's own files, imported."""
        path = import_module(self.home).__path__
        return [import_module(found.name) for found in pkgutil.iter_modules(path, f"{self.home}.")]

    def _load_plugins(self) -> None:
        from importlib.metadata import entry_points

        broken = []
        for entry in entry_points(group=self.group):
            before = [(registry, dict(registry._state.plugins)) for registry in _all]
            outer, _Registry._in_plugin = _Registry._in_plugin, True
            try:
                entry.load()
            except (Exception, SystemExit) as error:
                for registry, plugins in before:
                    registry._state.plugins, registry._entries = plugins, None
                package = (entry.dist and entry.dist.name) or entry.value
                said = " ".join(f"{type(error).__name__}: {error}".split())
                broken.append(Broken(self.what, self.group, package, entry.name, said))
            finally:
                _Registry._in_plugin = outer
        self._state.broken = tuple(broken)


class OperatorRegistry(_Registry[T]):
    """A registry by operator: ``aten.bmm`` for all overloads, ``aten.add.Tensor`` for a single overload.

    In-place forms are included. Archcost's own files register their entries when imported, as plugins do.
    """

    def __init__(self, what: str, *, home: str, group: str) -> None:
        super().__init__(what, home=home, group=group)
        self._found: tuple[Mapping[str, T], dict[str, T | None]] = ({}, {})

    def register(
        self, decorator: str, names: tuple[str, ...], entry: Callable[[Any], T], by: str
    ) -> Callable[[F], F]:
        """A decorator that registers a function for operators; it replaces an earlier entry.

        Args:
            decorator: the name of the public decorator, for messages.
            names: the operators, such as ``"aten.bmm"`` or ``"mylib::op"``.
            entry: makes the entry of the registry from the function.
            by: the name of the module that uses the decorator.

        Raises:
            ArchcostError: no operators are named.
        """
        if not names or not all(isinstance(name, str) for name in names):
            raise ArchcostError(f'{decorator}: name the operators, as in @{decorator}("mylib::op")')

        def register(function: F) -> F:
            for name in names:
                self._add(name.replace("::", "."), entry(function), by)
            return function

        return register

    def find(self, name: str) -> T | None:
        """The most specific entry for an operator, or None."""
        entries, found = self._found
        if entries is not self.entries:
            entries, found = self._found = (self.entries, {})
        if name not in found:
            found[name] = next((entries[key] for key in candidates(name) if key in entries), None)
        return found[name]


@cache
def candidates(name: str) -> tuple[str, ...]:
    """The names under which an entry for an operator may be registered, most specific first."""
    return (*forms(name), *_bases(name))


@cache
def forms(name: str) -> tuple[str, ...]:
    """The name of an overload, and for an in-place or ``out=`` overload those that return a new tensor."""
    plain, overload = _bases(name)[1], name.rpartition(".")[2]
    if overload == "out":
        return (name, f"{plain}.default", f"{plain}.Tensor")
    return (name, f"{plain}.{overload.removesuffix('_out')}")


def _bases(name: str) -> tuple[str, str]:
    base = name.rpartition(".")[0] if name.count(".") > 1 else name
    return base, base.removesuffix("_")


class NameRegistry(_Registry[T]):
    """A registry by name, in the order in which entries are presented.

    Each of archcost's own files has a tuple of entries and a number ``ORDER`` for its place, by default last.

    Args:
        kind: the class of the entries, which have a ``name``.
        noun: the kind of entry, in the singular, for messages.
        what: the kind of entries, in the plural.
        home: the package whose files hold archcost's own entries.
        group: the group of the entry points of plugins.
        holds: the name of the tuple in archcost's own files.
    """

    def __init__(self, kind: type[T], noun: str, what: str, *, home: str, group: str, holds: str) -> None:
        super().__init__(what, home=home, group=group)
        self.kind, self.noun, self.holds = kind, noun, holds

    def register(self, entry: T) -> T:
        """Register an entry under its name; it replaces an earlier entry of the same name.

        Packages call it in the module that their entry point names.

        Returns:
            The entry.

        Raises:
            ArchcostError: the entry is not an instance of the right class, with a name.
        """
        name = getattr(entry, "name", None)
        if not isinstance(entry, self.kind) or not isinstance(name, str):
            kind = self.kind.__name__
            raise ArchcostError(f"register: {entry!r} is not an instance of {kind} with a name; register one")
        self._add(name, entry)
        return entry

    def available(self) -> tuple[str, ...]:
        """The names of all entries, archcost's own first."""
        return tuple(self.entries)

    def get(self, name: str) -> T:
        """The entry of a name.

        Raises:
            SpecError: there is none; the message has similar names, and plugins that could not be loaded.
        """
        entries = self.entries
        if name in entries:
            return entries[name]
        import difflib

        close = difflib.get_close_matches(str(name), entries, n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(entries)}"
        raise SpecError("; ".join([f"no {self.noun} is called {name!r}", hint, *self.notes]))

    def _load_own(self) -> None:
        files = [module for module in self._modules() if hasattr(module, self.holds)]
        files.sort(key=lambda module: (getattr(module, "ORDER", inf), module.__name__))
        found = [entry for module in files for entry in getattr(module, self.holds)]
        self._state.own.update({entry.name: entry for entry in found})
