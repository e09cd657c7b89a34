"""Findings that the project does not want: comments in its files, and patterns in its configuration."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from archcost.errors import SpecError
from archcost.integrations.checking.case import Case, Remark
from archcost.integrations.checking.codes import CODES, matching
from archcost.integrations.checking.config import Ignore
from archcost.integrations.checking.findings import Finding, fingerprint
from archcost.integrations.checking.places import Place

__all__ = ["Ignores", "comments_in"]

_COMMENT = re.compile(r"#\s*archcost:\s*ignore(?:\[(?P<words>[^\]]*)\])?")


@dataclass(frozen=True)
class Comment:
    """``# archcost: ignore[AC101, AC2]``: its words, or none for every code."""

    words: tuple[str, ...]
    line: int
    column: int


def comments_in(text: str, is_toml: bool = False) -> dict[int, list[Comment]]:
    """The ignore comments of a file by the lines on which they hold; none in a file that is not Python.

    A comment holds on its line, and on the first line of a call that ends there.
    """
    if "archcost:" not in text:
        return {}
    lines = enumerate(text.splitlines(), 1) if is_toml else _comments(text)
    found: dict[int, list[Comment]] = {}
    for line, said in lines:
        match = _COMMENT.search(said)
        if match is not None:
            words = tuple(word.strip() for word in (match["words"] or "").split(",") if word.strip())
            found[line] = [Comment(words, line, match.start() + 1)]
    nodes = () if is_toml or not found else ast.walk(ast.parse(text))
    calls = sorted((n.lineno, n.col_offset, n.end_lineno or 0) for n in nodes if isinstance(n, ast.Call))
    # Of calls that end on the same line the one that begins last is the innermost.
    for last, first in {last: first for first, _, last in calls if last in found}.items():
        if first != last:
            found[first] = [*found.get(first, ()), *(one for one in found[last] if one.line == last)]
    return found


def _comments(text: str) -> Iterator[tuple[int, str]]:
    """The comments of a Python file, each in its column."""
    try:
        ast.parse(text)
        tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
    except (tokenize.TokenError, SyntaxError, ValueError):
        return
    for token in tokens:
        if token.type == tokenize.COMMENT:
            yield token.start[0], " " * token.start[1] + token.string


@dataclass
class Ignores:
    """All ignores of a project, and which of them were needed."""

    root: Path
    patterns: tuple[Ignore, ...]
    _files: dict[str, dict[int, list[Comment]]] = field(default_factory=dict)
    _used: set[tuple[object, str]] = field(default_factory=set)

    def hides(self, case: Case, remark: Remark) -> bool:
        """Whether a comment on one of its lines, or a pattern, ignores a remark."""
        for place in case.lines(remark):
            for comment in self.comments(place.file).get(place.line, ()):
                if self._needs(comment.words, remark.code, (place.file, comment.line)):
                    return True
        where = remark.place or case.where(remark.module)
        file = where.file if isinstance(where, Place) else ""
        named = (remark.module, f"{case.table.name}:{remark.module}", file)
        for one in self.patterns:
            if remark.code in one.codes and any(fnmatchcase(name, one.pattern) for name in named if name):
                self._used.add((one, ""))
                return True
        return False

    def _needs(self, words: tuple[str, ...], code: str, at: tuple[str, int]) -> bool:
        meant = [word for word in words if code.startswith(word) or CODES[code].name == word]
        self._used |= {(at, word) for word in meant or [""] * (not words)}
        return bool(meant) or not words

    def comments(self, file: str) -> dict[int, list[Comment]]:
        if file not in self._files:
            try:
                text = (self.root / file).read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError):
                text = ""
            self._files[file] = comments_in(text, file.endswith(".toml"))
        return self._files[file]

    def unused(self, codes: Collection[str], files: Iterable[str]) -> Iterator[Finding]:
        """The ignores in these files and in the configuration that no finding of the selected codes needs."""
        seen: Counter[tuple[str, str]] = Counter()
        for file in files:
            held = {one.line: one for together in self.comments(file).values() for one in together}
            for line, comment in sorted(held.items()):
                for word in comment.words or ("",):
                    seen[file, word] += 1
                    why = None if ((file, line), word) in self._used else _why_unused(word, codes)
                    if why is not None:
                        yield _finding(why, Place(file, line, comment.column), f"{word} {seen[file, word]}")
        for one in self.patterns:
            if (one, "") not in self._used and set(one.codes) <= set(codes):
                yield _finding(
                    f"the ignore of {one.pattern!r} hides nothing: remove it", one.place, one.pattern
                )


def _why_unused(word: str, codes: Collection[str]) -> str | None:
    """The fault of an ignore that hid nothing; None where codes that it means were not looked for."""
    try:
        known = matching(word) if word else ()
    except SpecError as error:
        return str(error)
    what = f"ignore[{word}]" if word else "ignore"
    return f"{what} hides nothing here: remove it" if set(known) <= set(codes) else None


def _finding(text: str, place: Place, key: str) -> Finding:
    code = CODES["AC001"]
    return Finding(
        code.code, code.level, place, "", text, (), (), None, (), fingerprint(code.code, place.file, key)
    )
