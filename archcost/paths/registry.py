"""The table of execution paths: by name, in the order in which they are presented, open to everyone."""

from __future__ import annotations

from archcost.paths.path import ExecutionPath
from archcost.registry import NameRegistry

__all__ = ["available", "get", "register"]

table = NameRegistry(
    ExecutionPath,  # type: ignore[type-abstract]
    "execution path",
    "execution paths",
    home="archcost.paths.algorithms",
    group="archcost.paths",
    holds="PATHS",
)

available, get, register = table.available, table.get, table.register
