"""The errors archcost raises on purpose: one base, a child for each thing a user can mend. And Refusal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


class ArchcostError(Exception):
    """The base of every error raised by archcost; its message says what was wrong, where, and the mend."""


class InputError(ArchcostError):
    """The inputs do not fit the model, or could not be guessed."""


class ModelError(ArchcostError):
    """The model cannot be traced as it is: uninitialised, cyclic, gone, or its own forward fails."""


class SpecError(ArchcostError):
    """A model SPEC, a weights file or an option that names nothing that can be loaded."""


class RewriteError(ArchcostError):
    """A layer cannot be exchanged as asked, or a model cannot be copied to do it there."""


def one_line(error: Exception) -> str:
    """What somebody else's code raised, for a message of our own: its type, and how its message begins."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"


@dataclass(frozen=True)
class Refusal:
    """Why something is not done, handed back where raising would be too much: looking on is no failure."""

    reason: str
    """In words that follow the name of what is refused, to be printed; code asks for ``kind``."""
    kind: Literal["any", "calls"] = "any"
    """``calls``: a layer that does not run one convolution a call."""

    def __str__(self) -> str:
        return self.reason
