"""A line for each finding, ``net.py:42:9: AC101 ...``, then the failures and a summary."""

from __future__ import annotations

from archcost.integrations.checking.checked import Checked

__all__ = ["report"]


def report(result: Checked) -> str:
    """The lines of a result, uncut."""
    return "\n".join([*map(str, result), result.summary])
