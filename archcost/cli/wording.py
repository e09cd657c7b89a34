"""Messages of the Python functions in the words of the command line: ``--input-size`` for ``input_size=``."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping

__all__ = ["as_options", "options_of"]

_SHAPE = r"\(([\w.]+(?:, [\w.]+)*),?\)"
# A value as Python writes it: a tuple, a string, or a word.
_VALUE = rf"(?:{_SHAPE}|'([^']*)'|([\w.+-]*\w))?"


def options_of(parser: argparse.ArgumentParser, *commands: str | None) -> dict[str, str]:
    """The options of a command by the names of the Python arguments that they are for.

    Args:
        parser: the parser of the whole command line.
        commands: the command, and the command in it.
    """
    found: dict[str, str] = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            inner = action.choices.get(commands[0] or "") if commands else None
            found |= options_of(inner, *commands[1:]) if inner is not None else {}
        elif action.option_strings:
            found[action.dest] = action.option_strings[-1]
    return found


def as_options(message: str, options: Mapping[str, str]) -> str:
    """The message with options in place of arguments, and their values as the command line takes them.

    >>> as_options("pass inputs or input_size=(batch, ...)", {"input_size": "--input-size"})
    'give --input-size N,C,H,W'
    >>> as_options("measure: seconds must be a number above 0; got 0.0", {"seconds": "--seconds"})
    '--seconds must be a number above 0; got 0.0'
    """
    if re.match(r"\S+:\d+: ", message):  # a line of a file names keys of its own
        return message
    if "input_size" in options:
        message = message.replace("pass inputs or input_size=(batch, ...)", "give --input-size N,C,H,W")
        before, tries, shapes = message.partition(" Try ")
        message = before + tries + re.sub(_SHAPE, r"input_size=(\1)", shapes)
    message = message.removesuffix(", or None")
    names = "|".join(sorted(options, key=len, reverse=True))
    message = re.sub(rf"\b({names})={_VALUE}", lambda found: _option(found, options), message)
    started = re.sub(
        rf"^(?:[a-z_]+: )?({names})(?=:| \(| is | must )", lambda found: options[found[1]], message
    )
    left_out = re.sub(
        r"(?<=leave )[\w ]+(?= out)",
        lambda found: re.sub(rf"\b({names})\b", lambda name: options[name[1]], found[0]),
        started,
    )
    # A name with an underscore is no word of a sentence.
    parts = "|".join(name for name in options if "_" in name)
    return re.sub(rf"\b({parts})\b", lambda found: options[found[1]], left_out) if parts else left_out


def _option(found: re.Match[str], options: Mapping[str, str]) -> str:
    shape, text, word = found[2], found[3], found[4]
    value = shape.replace(", ", ",") if shape else text or ("" if word == "True" else word)
    return f"{options[found[1]]} {value}" if value else options[found[1]]
