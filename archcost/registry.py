"""Registries: the tables that archcost, installed packages and users add to, by operator or by name.

An entry comes from one of three sides: archcost's own files, which are all those in one folder; a plugin, the
module that an installed package announces by an entry point; or the user. Of one name the user's goes first,
then the plugin's. The first two are loaded at the first look-up; a plugin that cannot be is in `broken`.
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
F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Broken:
    """A plugin that could not be loaded; as a string, the note that says so."""

    what: str
    """What it was to bring: ``counting rules``."""
    group: str
    package: str
    entry: str
    """The name of its entry point."""
    error: str

    def __str__(self) -> str:
        plugin = f"{self.what} of {self.package} (entry point {self.entry!r} of {self.group})"
        return f"the {plugin} cannot be loaded: {self.error}; update or uninstall it"


@dataclass
class _State(Generic[T]):
    """What a registry knows, by the three sides, and which of them it has loaded."""

    own: dict[str, T] = field(default_factory=dict)
    plugins: dict[str, T] = field(default_factory=dict)
    users: dict[str, T] = field(default_factory=dict)
    broken: tuple[Broken, ...] = ()
    loaded: frozenset[str] = frozenset()


_all: list[_Registry[Any]] = []
_lock = RLock()


class _Registry(Generic[T]):
    """What both kinds share.

    Args:
        what: the entries, in the plural: ``counting rules``.
        home: the package whose files are archcost's own entries.
        group: of the entry points by which other packages announce theirs.
    """

    _in_plugin = False
    """Whether one is being loaded, by whichever registry: a module may add to several."""

    def __init__(self, what: str, *, home: str, group: str) -> None:
        self.what, self.home, self.group = what, home, group
        self._state: _State[T] = _State()
        self._entries: dict[str, T] | None = None
        _all.append(self)

    @property
    def entries(self) -> Mapping[str, T]:
        """Everything by its name, archcost's own first."""
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
        """The same in words, for the notes of a result."""
        return tuple(map(str, self.broken))

    @contextmanager
    def temporarily(self, *, fresh: bool = False) -> Iterator[None]:
        """What is registered inside is gone afterwards.

        ``fresh``: inside, there is nothing but archcost's own, and what installed packages announce now.
        """
        self.entries  # noqa: B018 - what is loaded inside for the first time would be gone for good
        before = self._state
        own, plugins, users = dict(before.own), dict(before.plugins), dict(before.users)
        inside = _State(own) if fresh else _State(own, plugins, users, before.broken, before.loaded)
        self._state, self._entries = inside, None
        try:
            yield
        finally:
            self._state, self._entries = before, None

    def _add(self, name: str, entry: T, by: str = "") -> None:
        """``by``: the module that registers it, where archcost's own files do so themselves."""
        with _lock:
            state = self._state
            is_own = by.startswith(f"{self.home}.")
            side = state.own if is_own else state.plugins if _Registry._in_plugin else state.users
            side[name] = entry
            self._entries = None

    def _once(self, side: str, load: Callable[[], None]) -> None:
        if side not in self._state.loaded:
            # Before it is: what is being loaded may look something up.
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
        """Archcost's own files, imported."""
        path = import_module(self.home).__path__
        return [import_module(found.name) for found in pkgutil.iter_modules(path, f"{self.home}.")]

    def _load_plugins(self) -> None:
        from importlib.metadata import entry_points

        broken = []
        for entry in entry_points(group=self.group):
            before = [(one, dict(one._state.plugins)) for one in _all]
            outer, _Registry._in_plugin = _Registry._in_plugin, True
            try:
                entry.load()
            except (Exception, SystemExit) as error:
                for one, plugins in before:
                    one._state.plugins, one._entries = plugins, None
                package = (entry.dist and entry.dist.name) or entry.value
                said = " ".join(f"{type(error).__name__}: {error}".split())
                broken.append(Broken(self.what, self.group, package, entry.name, said))
            finally:
                _Registry._in_plugin = outer
        self._state.broken = tuple(broken)


class OperatorRegistry(_Registry[T]):
    """By operator: ``aten.bmm`` for all its overloads, ``aten.add.Tensor`` for one, in-place forms included.

    Archcost's own files register what they hold when they are imported, as everybody does.
    """

    def __init__(self, what: str, *, home: str, group: str) -> None:
        super().__init__(what, home=home, group=group)
        self._found: tuple[Mapping[str, T], dict[str, T | None]] = ({}, {})

    def register(
        self, decorator: str, names: tuple[str, ...], entry: Callable[[Any], T], by: str
    ) -> Callable[[F], F]:
        """A decorator that registers a function for these operators; a later one replaces an earlier one.

        Args:
            decorator: its name, for messages.
            entry: from the function to what is kept of it.
            by: the module that uses it.
        """
        if not names or not all(isinstance(name, str) for name in names):
            raise ArchcostError(f'{decorator}: name the operators, as in @{decorator}("mylib::op")')

        def register(function: F) -> F:
            for name in names:
                self._add(name.replace("::", "."), entry(function), by)
            return function

        return register

    def find(self, name: str) -> T | None:
        """What holds for an operator; the most special where several do."""
        entries, found = self._found
        if entries is not self.entries:
            entries, found = self._found = (self.entries, {})
        if name not in found:
            found[name] = next((entries[one] for one in candidates(name) if one in entries), None)
        return found[name]


@cache
def candidates(name: str) -> tuple[str, ...]:
    """What an entry for an operator may be registered under, most special first."""
    return (*forms(name), *_bases(name))


@cache
def forms(name: str) -> tuple[str, ...]:
    """An overload, and the ones that compute the same into a new tensor where it is in place or ``out=``."""
    plain, overload = _bases(name)[1], name.rpartition(".")[2]
    if overload == "out":
        return (name, f"{plain}.default", f"{plain}.Tensor")
    return (name, f"{plain}.{overload.removesuffix('_out')}")


def _bases(name: str) -> tuple[str, str]:
    base = name.rpartition(".")[0] if name.count(".") > 1 else name
    return base, base.removesuffix("_")


class NameRegistry(_Registry[T]):
    """By name, in the order in which they are presented.

    Archcost's own files hold a tuple of entries, and say in ``ORDER`` where they stand; the last without it.

    Args:
        kind: the class of the entries, each with a ``name``.
        noun: one of them, for messages.
        holds: the name of the tuple.
    """

    def __init__(self, kind: type[T], noun: str, what: str, *, home: str, group: str, holds: str) -> None:
        super().__init__(what, home=home, group=group)
        self.kind, self.noun, self.holds = kind, noun, holds

    def register(self, entry: T) -> T:
        """Make one known by its name; a later one replaces an earlier one of the same name.

        Packages do it in a module that they announce as an entry point.
        """
        name = getattr(entry, "name", None)
        if not isinstance(entry, self.kind) or not isinstance(name, str):
            kind = self.kind.__name__
            raise ArchcostError(f"register: {entry!r} is no {kind} with a name; register an instance")
        self._add(name, entry)
        return entry

    def available(self) -> tuple[str, ...]:
        """The names of all, archcost's own first."""
        return tuple(self.entries)

    def get(self, name: str) -> T:
        """The one of that name.

        Raises:
            SpecError: there is none; the message has those that are spelt alike, and the plugins that could
                not be loaded.
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
        found: Any = [entry for module in files for entry in getattr(module, self.holds)]
        self._state.own.update({entry.name: entry for entry in found})
