"""The configuration: ``[tool.archcost]`` in pyproject.toml, and a table for each model."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from archcost.analysis.budget import Budget
from archcost.errors import ArchcostError, SpecError
from archcost.integrations.checking.codes import LEVELS, Level, matching
from archcost.integrations.checking.places import Keys, Place, tomllib
from archcost.report.text import near

__all__ = ["Config", "Ignore", "ModelTable", "in_project", "read_config"]

NAME = "pyproject.toml"
_TABLE = ("tool", "archcost")
_OF_MODEL = ("spec", "input_size", "dtype", "weights")


@dataclass(frozen=True)
class ModelTable:
    """A model to check: ``[tool.archcost.models.NAME]``, or a SPEC of the command line."""

    name: str
    spec: str
    """As `archcost.load` takes it; the path of a file is absolute."""
    input_size: Any = None
    dtype: Any = None
    weights: str | None = None
    budget: Budget = field(default_factory=Budget)
    place: Place | None = None
    """The line of its ``spec``; None on the command line."""
    limits: Mapping[str, Place] = field(default_factory=dict)
    """The line of each limit of the budget."""


@dataclass(frozen=True)
class Ignore:
    """An entry of ``[tool.archcost.ignore]``: codes that are not reported for a pattern."""

    pattern: str
    """A pattern of files, of modules' names, or of ``model:module``."""
    codes: tuple[str, ...]
    place: Place


@dataclass(frozen=True)
class Config:
    """The models to check, and the findings to report."""

    root: Path
    """The project root, the folder of pyproject.toml: all paths are relative to it."""
    level: Level = "warning"
    """Findings of this level and above fail the check."""
    rules: tuple[str, ...] | None = None
    """Codes to report, or beginnings or names of codes; None: the usual ones."""
    exclude: tuple[str, ...] = ()
    """Patterns of files that are no code of the project's own, such as vendored ones."""
    ignore: tuple[Ignore, ...] = ()
    models: tuple[ModelTable, ...] = ()
    baseline: str = "tests/archcost-baseline.json"
    """The file of the pytest plugin's baseline, relative to pytest's root."""
    ratchet: bool = False
    """Whether a model that became cheaper fails the plugin's tests until that is written down."""


def read_config(path: str | os.PathLike[str] | None = None, start: Path | None = None) -> Config:
    """The configuration in a file, or in the nearest pyproject.toml upwards that has ``[tool.archcost]``.

    Without either, the folder where the search starts is the project root and nothing is configured.

    Args:
        path: the file.
        start: the folder where the search starts; by default the working directory.

    Raises:
        SpecError: the file cannot be read, or a key or a value is wrong; the message has the line.
    """
    if path is not None:
        return _Reader(Path(path)).config()
    here = start or Path.cwd()
    for folder in (here, *here.parents):
        file = folder / NAME
        if file.is_file() and (reader := _Reader(file)).table is not None:
            return reader.config()
    return Config(here)


class _Reader:
    """A file; every wrong key or value becomes a SpecError with its line."""

    def __init__(self, file: Path) -> None:
        self.shown = os.path.relpath(file)
        try:
            text = file.read_text(encoding="utf-8")
        except OSError as error:
            raise SpecError(f"{self.shown} cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise SpecError(f"{self.shown} is not UTF-8, as TOML has to be: {error}") from error
        try:
            whole = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise SpecError(f"{self.shown} is not valid TOML: {error}") from error
        self.root = file.resolve().parent
        self.name = file.name
        self.keys = Keys(text)
        table = whole.get("tool", {}).get("archcost") if isinstance(whole.get("tool", {}), dict) else None
        self.table: Any = table

    def config(self) -> Config:
        if self.table is None:
            raise SpecError(
                f"{self.shown} has no [tool.archcost]; add [tool.archcost.models.NAME] with spec = '...'"
            )
        table = self.dict_of(self.table, _TABLE)
        self.only(table, [one.name for one in fields(Config) if one.name != "root"], _TABLE)
        level = table.get("level", "warning")
        if level not in LEVELS:
            raise SpecError(f"{self.at(*_TABLE, 'level')}level is {level!r}{near(str(level), LEVELS)}")
        rules = self.texts(table["rules"], *_TABLE, "rules") if "rules" in table else None
        for word in rules or ():
            matching(word, self.at(*_TABLE, "rules"))
        models = self.dict_of(table.get("models", {}), (*_TABLE, "models"))
        baseline, ratchet = table.get("baseline", Config.baseline), table.get("ratchet", Config.ratchet)
        if not isinstance(baseline, str):
            raise SpecError(
                f"{self.at(*_TABLE, 'baseline')}baseline is {baseline!r}; write the path of a file"
            )
        if not isinstance(ratchet, bool):
            raise SpecError(f"{self.at(*_TABLE, 'ratchet')}ratchet is {ratchet!r}; write true or false")
        return Config(
            self.root,
            level,
            rules,
            self.texts(table.get("exclude", []), *_TABLE, "exclude"),
            tuple(self.ignores(self.dict_of(table.get("ignore", {}), (*_TABLE, "ignore")))),
            tuple(self.model(name, one) for name, one in models.items()),
            baseline,
            ratchet,
        )

    def ignores(self, table: dict[str, Any]) -> Iterable[Ignore]:
        for pattern, words in table.items():
            path = (*_TABLE, "ignore", pattern)
            named = self.texts(words, *path)
            codes = tuple(code for word in named for code in matching(word, self.at(*path)))
            yield Ignore(pattern, codes, self.place(*path))

    def model(self, name: str, given: Any) -> ModelTable:
        path = (*_TABLE, "models", name)
        table = self.dict_of(given, path)
        limits = {key: value for key, value in table.items() if key not in _OF_MODEL}
        self.only(table, [*_OF_MODEL, *(one.name for one in fields(Budget))], path)
        spec = table.get("spec")
        if not isinstance(spec, str):
            said = "no spec" if spec is None else f"spec = {spec!r}"
            raise SpecError(f"{self.at(*path, 'spec')}{name} has {said}; write spec = 'net.py:Net'")
        if "max_latency_ratio" in limits:
            raise SpecError(
                f"{self.at(*path, 'max_latency_ratio')}{name}: a latency is measured, and check counts; hold "
                f"it in a test by archcost.assert_cost"
            )
        for key, value in limits.items():  # each alone, for its own line
            try:
                Budget.of({key: value})
            except ArchcostError as error:
                raise SpecError(f"{self.at(*path, key)}{error}") from error
        return ModelTable(
            name,
            in_project(spec, self.root),
            self.size(table.get("input_size"), *path, "input_size"),
            table.get("dtype"),
            self.weights(table.get("weights"), *path, "weights"),
            Budget.of(limits),
            self.place(*path, "spec"),
            {key: self.place(*path, key) for key in limits},
        )

    def weights(self, given: Any, *path: str) -> str | None:
        if given is not None and not isinstance(given, str):
            raise SpecError(f"{self.at(*path)}weights is {given!r}; write the path of a state dict")
        return None if given is None else str(self.root / given)

    def size(self, given: Any, *path: str) -> Any:
        """A shape, a list of shapes, or shapes by the argument's name."""
        if given is None:
            return None
        if isinstance(given, dict):
            return {key: self.size(value, *path, key) for key, value in given.items()}
        if isinstance(given, list) and given:
            if all(type(n) is int and n > 0 for n in given):
                return tuple(given)
            if all(isinstance(one, list) for one in given):
                return [self.size(one, *path) for one in given]
        raise SpecError(
            f"{self.at(*path)}input_size is {given!r}; write [1, 3, 224, 224], a list of such lists, or a "
            f"table of them by argument"
        )

    def texts(self, given: Any, *path: str) -> tuple[str, ...]:
        if not isinstance(given, list) or not all(isinstance(one, str) for one in given):
            raise SpecError(f"{self.at(*path)}{path[-1]} is {given!r}; write a list of texts")
        return tuple(given)

    def dict_of(self, given: Any, path: tuple[str, ...]) -> dict[str, Any]:
        if not isinstance(given, dict):
            raise SpecError(f"{self.at(*path)}{path[-1]} is {given!r}; it is a table: [{'.'.join(path)}]")
        return given

    def only(self, table: Mapping[str, Any], known: list[str], path: tuple[str, ...]) -> None:
        for key in table:
            if key not in known:
                raise SpecError(
                    f"{self.at(*path, key)}unknown key {key!r} in [{'.'.join(path)}]{near(key, known)}"
                )

    def at(self, *path: str) -> str:
        return f"{self.shown}:{self.keys.line(path)}: "

    def place(self, *path: str) -> Place:
        return Place(self.name, self.keys.line(path))


def in_project(spec: str, root: Path) -> str:
    """A SPEC with the path of its file relative to a folder."""
    source, colon, name = spec.rpartition(":")
    return f"{root / source}{colon}{name}" if source.endswith(".py") else spec
