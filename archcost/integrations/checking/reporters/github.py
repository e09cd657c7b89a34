"""Workflow commands of GitHub Actions, which show findings beside the lines of a pull request."""

from __future__ import annotations

from archcost.integrations.checking.checked import Checked
from archcost.integrations.checking.codes import LEVELS
from archcost.integrations.checking.places import Place
from archcost.report.text import well_formed

__all__ = ["report"]

_COMMANDS = {"note": "notice", "warning": "warning", "error": "error"}


def report(result: Checked) -> str:
    """A command for each failure and finding, the gravest first: GitHub shows ten of each kind a step."""
    found = sorted(result, key=lambda one: -LEVELS.index(one.level))
    lines = [
        _command("error", one.place, "archcost check", f"{one.model}: {one.text}") for one in result.failures
    ]
    lines += [
        _command(_COMMANDS[one.level], one.place, f"{one.code} {one.name}", one.text)
        if one.place is not None
        else _command(_COMMANDS[one.level], None, f"{one.code} {one.name}", f"{one.where}: {one.text}")
        for one in found
    ]
    return well_formed("\n".join([*lines, result.summary]))


def _command(name: str, place: Place | None, title: str, message: str) -> str:
    at = {} if place is None else {"file": place.file, "line": place.line, "col": place.column}
    given = {**at, "title": title}
    said = ",".join(f"{key}={_property(str(value))}" for key, value in given.items() if value is not None)
    return f"::{name} {said}::{_data(message)}"


def _data(text: str) -> str:
    """The message of a command: one line, in which no other command can begin."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
