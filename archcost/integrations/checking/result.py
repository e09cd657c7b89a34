"""CheckResult: the findings on the models of a project."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from archcost.integrations.checking.checked import Checked
from archcost.integrations.checking.findings import Finding
from archcost.integrations.checking.places import Place
from archcost.integrations.checking.reporters import markdown
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


class CheckResult(Checked, Result):
    """The findings on the models of a project, and the models that failed: a sequence of `Finding`."""

    def document(self, asked: Asked) -> Document:
        """The contents to show.

        The JSON has ``level``, ``models`` (names), ``codes`` (looked for), ``hidden`` (a number), ``passed``,
        ``findings`` and ``failures``. A finding is ``{"code", "name", "level", "file", "line", "column",
        "elsewhere", "text", "models", "modules", "gain", "related", "fingerprint"}``; ``gain`` is null or
        ``{"params", "macs", "ms", "disturbed"}``, the first three ``[before, after]`` or null, the last
        whether other processes interrupted a time. A failure is ``{"model", "text", "file", "line"}``.
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
        return markdown.report(self) if not options else super().to_markdown(**options)


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
