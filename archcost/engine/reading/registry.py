"""The registry of operators of PyTorch that the engine reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from archcost.engine.graph import Value

__all__ = ["READERS", "Refused", "reads"]

Handler: TypeAlias = "Callable[..., Value | tuple[Value, ...] | None]"
"""Given a `Reader` and `Arguments`, adds nodes and returns the results; None where it cannot read them."""

READERS: dict[str, Handler] = {}


class Refused(Exception):
    """A model that cannot become a program; the message says why."""


def reads(*names: str) -> Callable[[Handler], Handler]:
    """Register a handler for operators by their base names, as in ``aten.convolution``; the same in place."""

    def register(handler: Handler) -> Handler:
        READERS.update(dict.fromkeys(names, handler))
        return handler

    return register
