"""Build a model, with or without values in its weights."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from archcost.errors import SpecError

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Loaded:
    """A model made from a SPEC, in eval mode, with the input it is meant for where that is known."""

    model: nn.Module
    spec: str
    input_size: Any = None
    """As `archcost.analyze` takes it; None where the SPEC does not say."""
    assumed: str = ""
    """Where the input size comes from, in words."""
    without_values: bool = False
    """Its large weights are on `meta`: enough to count, not to run."""


@contextlib.contextmanager
def _without_values() -> Iterator[None]:
    """Uninitialised tensors, which is what layers are made of, go to `meta`; computed ones stay real.

    A default device of `meta` would take the arithmetic of constructors along: RegNets need its values.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    class EmptyOnMeta(TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
        ) -> Any:
            kwargs = kwargs or {}
            if func is torch.empty and kwargs.get("device") is None:
                kwargs = {**kwargs, "device": "meta"}
            return func(*args, **kwargs)

    with EmptyOnMeta():
        yield


def build(make: Any, light: bool, spec: str) -> tuple[nn.Module, bool]:
    """Call ``make``, without values if asked and possible: the model in eval mode, whether it has none."""
    if light:
        with contextlib.suppress(Exception), _quietly(), _without_values():
            return make().eval(), True
    try:
        with _quietly():
            return make().eval(), False
    except Exception as error:
        missing = "missing" in str(error) and isinstance(error, TypeError)
        hint = "; name a function that needs no arguments and makes it" if missing else ""
        raise SpecError(
            f"{spec}: building the model failed: {type(error).__name__}: {error}{hint}"
        ) from error


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Warnings of constructors (deprecations, slow initialisation) are not the user's to mend."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def near(name: str, names: list[str]) -> str:
    """``"; did you mean ...?"`` for a name that is not among ``names``, or nothing."""
    close = difflib.get_close_matches(name, names, n=3)
    return f"; did you mean {' or '.join(close)}?" if close else ""
