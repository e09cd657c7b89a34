"""The reporters by the name of their format."""

from __future__ import annotations

from collections.abc import Callable

from archcost.integrations.checking.reporters import github, json, markdown, sarif, text
from archcost.integrations.checking.result import CheckResult

__all__ = ["REPORTERS"]

REPORTERS: dict[str, Callable[[CheckResult], str]] = {
    "text": text.report,
    "json": json.report,
    "sarif": sarif.report,
    "github": github.report,
    "markdown": markdown.report,
}
