"""The settings of a project: the table ``[tool.archcost]`` of its pyproject.toml."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from archcost.errors import SpecError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["find_project", "settings_of", "tomllib"]


def find_project(start: Path) -> Path | None:
    """The nearest pyproject.toml in a folder or above it."""
    folder = start.resolve()
    files = (each / "pyproject.toml" for each in (folder, *folder.parents))
    return next((file for file in files if file.is_file()), None)


def settings_of(start: Path) -> dict[str, Any]:
    """The table ``[tool.archcost]`` of the nearest pyproject.toml; empty where there is none.

    Raises:
        SpecError: the file is not TOML.
    """
    file = find_project(start)
    if file is None:
        return {}
    try:
        whole = tomllib.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SpecError(f"{file.name} cannot be read: {error}") from error
    found = whole.get("tool", {}).get("archcost", {})
    if not isinstance(found, dict):
        raise SpecError(f"{file.name}: [tool.archcost] is a {type(found).__name__}, not a table")
    return found
