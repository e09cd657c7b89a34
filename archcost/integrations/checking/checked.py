"""The data of `CheckResult`, without how they are shown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from archcost.integrations.checking.codes import LEVELS, Level
from archcost.integrations.checking.findings import Failure, Finding

__all__ = ["Checked"]


@dataclass(frozen=True)
class Checked(Sequence[Finding]):
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

    def __repr__(self) -> str:
        return f"<CheckResult: {self.summary}; print it for the findings>"


def _several(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"
