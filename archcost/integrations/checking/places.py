"""Places: lines of the user's own files, and the lines of keys in a TOML file."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["Keys", "Place", "tomllib"]


@dataclass(frozen=True, order=True)
class Place:
    """A line of a file of the project."""

    file: str
    """Relative to the project root, with ``/`` between folders."""
    line: int
    column: int | None = None
    """From 1, in characters; None where not known."""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" + (f":{self.column}" if self.column else "")


class Keys:
    """The lines of the keys of a TOML file, which the parser does not keep."""

    def __init__(self, text: str) -> None:
        self._lines: dict[tuple[str, ...], int] = {}
        table: tuple[str, ...] = ()
        for number, line in enumerate(text.splitlines(), 1):
            head = line.strip()
            if head.startswith("["):
                table = _path(re.sub(r"^\[\[(.*?)\]\]", r"[\1]", head)) or table
                self._lines.setdefault(table, number)
            elif found := re.match(r"[^=#]+", head):
                key = _path(f"{found[0]} = 0") if "=" in head else ()
                self._lines.setdefault((*table, *key), number)

    def line(self, path: Sequence[str]) -> int:
        """The line of a key, or of the innermost table around it that has one."""
        for end in range(len(path), 0, -1):
            if tuple(path[:end]) in self._lines:
                return self._lines[tuple(path[:end])]
        return 1


def _path(line: str) -> tuple[str, ...]:
    """The names in a line that is a table's head or one key; empty where it is neither."""
    try:
        held: object = tomllib.loads(line)
    except tomllib.TOMLDecodeError:
        return ()
    names: list[str] = []
    while isinstance(held, Mapping) and len(held) == 1:
        [(name, held)] = held.items()
        names.append(name)
    return tuple(names)
