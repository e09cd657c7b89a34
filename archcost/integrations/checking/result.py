"""CheckResult: the findings on the models of a project."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from archcost.integrations.checking.codes import LEVELS, Level
from archcost.integrations.checking.findings import Failure, Finding
from archcost.integrations.checking.places import Place
from archcost.report.columns import words
from archcost.report.document import Asked, Document, Table, ordered
from archcost.report.result import Result
from archcost.report.values import Json

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from archcost.report.result import Options

__all__ = ["CheckResult"]

_COLUMNS = (
    words("where", "Where", "File, line and column, relative to the project root"),
    words("code", "Code", "The code, as archcost check --explain takes it"),
    words("level", "Level", "note, warning or error"),
    words("text", "Finding", "The finding in words"),
    words("model", "Model", "The first model that has it", lambda one: one.models[0] if one.models else None),
    words("modules", "Modules", "The modules in that model", lambda one: ", ".join(one.modules)),
)


@dataclass(frozen=True)
class CheckResult(Result, Sequence[Finding]):
    """The findings on the models of a project, and the models that failed: a sequence of `Finding`."""

    findings: tuple[Finding, ...]
    """By file and line."""
    failures: tuple[Failure, ...]
    """The models that could not be checked."""
    models: tuple[str, ...]
    """Names of all models, failed ones included."""
    level: Level
    """Findings of this level and above fail the check."""
    codes: tuple[str, ...]
    """The codes that were looked for."""
    hidden: int = 0
    """Number of remarks that comments or the configuration ignore."""

    def __getitem__(self, index: Any) -> Any:
        return self.findings[index]

    def __len__(self) -> int:
        return len(self.findings)

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.findings)

    @property
    def failing(self) -> tuple[Finding, ...]:
        """The findings at or above the level."""
        return tuple(one for one in self if one.reaches(self.level))

    @property
    def passed(self) -> bool:
        """Whether every model was checked and no finding reaches the level."""
        return not self.failures and not self.failing

    @property
    def exit_code(self) -> int:
        """2: a model failed; 1: a finding reaches the level; 0: neither."""
        return 2 if self.failures else 1 if self.failing else 0

    @property
    def summary(self) -> str:
        """The counts in one line: ``2 findings in 3 models (1 error, 1 note), 1 at or above warning``."""
        count = f"{_several(len(self), 'finding')} in {_several(len(self.models), 'model')}"
        each = [
            _several(sum(one.level == level for one in self), level)
            for level in reversed(LEVELS)
            if any(one.level == level for one in self)
        ]
        kinds = f" ({', '.join(each)}), {len(self.failing)} at or above {self.level}" if len(self) else ""
        failed = f"; {_several(len(self.failures), 'model')} could not be checked" if self.failures else ""
        hidden = f"; {_several(self.hidden, 'remark')} ignored" if self.hidden else ""
        return count + kinds + failed + hidden

    def document(self, asked: Asked) -> Document:
        """The contents to show.

        The JSON has ``level``, ``models`` (names), ``codes`` (looked for), ``hidden`` (a number), ``passed``,
        ``findings`` and ``failures``. A finding is ``{"code", "name", "level", "file", "line", "column",
        "elsewhere", "text", "models", "modules", "gain", "related", "fingerprint"}``; ``gain`` is null or
        ``{"params", "macs", "ms"}``, each ``[before, after]`` or null. A failure is ``{"model", "text",
        "file", "line"}``.
        """
        asked.without_depth("a check")
        table = Table("findings", _COLUMNS, lambda: ordered(self.findings, _COLUMNS, asked, "where"))
        lines = [*map(str, self), *map(str, self.failures), self.summary]
        return Document("archcost.check/1", [], [table], [], self._record, lines)

    def _record(self) -> dict[str, Json]:
        return {
            "level": self.level,
            "models": list(self.models),
            "codes": list(self.codes),
            "hidden": self.hidden,
            "passed": self.passed,
            "findings": [_finding(one) for one in self],
            "failures": [{"model": one.model, "text": one.text, **_line(one.place)} for one in self.failures],
        }

    def to_markdown(self, **options: Unpack[Options]) -> str:
        """The findings as markdown, for a comment on a pull request."""
        from archcost.integrations.checking.reporters import markdown

        return markdown.report(self) if not options else super().to_markdown(**options)

    def __repr__(self) -> str:
        return f"<CheckResult: {self.summary}; print it for the findings>"


def _several(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def _finding(one: Finding) -> dict[str, Json]:
    return {
        "code": one.code,
        "name": one.name,
        "level": one.level,
        **_line(one.place),
        "column": None if one.place is None else one.place.column,
        "elsewhere": one.elsewhere,
        "text": one.text,
        "models": list(one.models),
        "modules": list(one.modules),
        "gain": None if one.gain is None else asdict(one.gain),
        "related": [{**_line(at.place), "text": at.text} for at in one.related],
        "fingerprint": one.fingerprint,
    }


def _line(place: Place | None) -> dict[str, Json]:
    return {"file": None, "line": None} if place is None else {"file": place.file, "line": place.line}
