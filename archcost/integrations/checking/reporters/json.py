"""The result as JSON; `CheckResult.document` states the schema."""

from __future__ import annotations

from archcost.integrations.checking.result import CheckResult

__all__ = ["report"]


def report(result: CheckResult) -> str:
    """The whole result."""
    return result.to_json() or ""
