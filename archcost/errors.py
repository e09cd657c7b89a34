"""The errors that archcost raises, and Refusal, a reason that is returned instead of raised."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from typing_extensions import Self


class ArchcostError(Exception):
    """Base class of the errors of archcost; messages say what is wrong, at which module, and what to do."""

    trace: Any = None
    """The `archcost.trace.graph.Trace` up to the operation that failed, where a forward pass did."""
    partial: Any = None
    """The `archcost.Analysis` of `trace`, where `archcost.analyze` was called."""

    def of(self, other: BaseException) -> Self:
        """This error with the trace of another one, which it explains."""
        self.trace = getattr(other, "trace", None)
        return self


class InputError(ArchcostError):
    """The inputs do not fit the model, or are missing and could not be guessed."""


class ModelError(ArchcostError):
    """The model cannot be traced or run: uninitialised, cyclic, gone, or its own forward fails."""


class SpecError(ArchcostError):
    """A SPEC, a file or an option cannot be used: the name is unknown, or the value is not allowed."""


class RewriteError(ArchcostError):
    """A layer cannot be replaced as asked, or the model cannot be copied for it."""


class CostError(ArchcostError, AssertionError):
    """A model exceeds its budget or its baseline: an assertion that failed."""


def one_line(error: Exception) -> str:
    """Type and first line of an error of other code, to be quoted in a message of archcost."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"


@dataclass(frozen=True)
class Refusal:
    """The reason why something is not done, returned where it is no error: layers are skipped, not failed."""

    reason: str
    """The reason in words that continue a sentence begun with a name; code compares ``kind`` instead."""
    kind: Literal["any", "calls"] = "any"
    """``calls``: the layer does not run exactly one convolution in each call. ``any``: another reason."""

    def __str__(self) -> str:
        return self.reason
