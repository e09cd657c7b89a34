"""A comment for a pull request: the findings that fail the check, the others folded."""

from __future__ import annotations

from collections.abc import Iterable

from archcost.integrations.checking.checked import Checked
from archcost.integrations.checking.findings import Finding
from archcost.report.text import markdown_cell

__all__ = ["report"]


def report(result: Checked) -> str:
    """Verdict, a table of the failing findings and the failures, and the rest folded."""
    failing = result.failing
    others = [one for one in result if one not in failing]
    verdict = "passed" if result.passed else "failed"
    parts = [f"**archcost check {verdict}**: {markdown_cell(result.summary)}"]
    if result.failures:
        parts.append("\n".join(f"- {markdown_cell(str(one))}" for one in result.failures))
    if failing:
        parts.append(_table(failing))
    if others:
        head = f"<details><summary>{len(others)} below {result.level}</summary>"
        parts += [head, _table(others), "</details>"]
    return "\n\n".join(parts)


def _table(findings: Iterable[Finding]) -> str:
    from tabulate import tabulate

    rows = [
        [markdown_cell(one.where), f"{one.code} {one.name}", one.level, markdown_cell(one.text)]
        for one in findings
    ]
    return tabulate(rows, ["Where", "Code", "Level", "Finding"], tablefmt="pipe", disable_numparse=True)
