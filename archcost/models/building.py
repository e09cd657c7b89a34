"""Build a model, with or without values in its weights."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from archcost.errors import SpecError

if TYPE_CHECKING:
    from torch import nn

    from archcost.trace.graph import Args, Kwargs
    from archcost.trace.inputs import InputSize

T = TypeVar("T")


@dataclass(frozen=True)
class Loaded:
    """A model made from a SPEC, in eval mode, with its input size where that is known."""

    model: nn.Module
    spec: str
    input_size: InputSize | None = None
    """The input size, as `archcost.analyze` takes it; None where it is not known."""
    assumed: str = ""
    """The source of the input size, in words."""
    without_values: bool = False
    """Whether its large weights are on `meta`, which is enough to count but not to run."""


@contextlib.contextmanager
def _without_values() -> Iterator[None]:
    """A context in which uninitialised tensors, such as the weights of new layers, are made on `meta`.

    `meta` as the default device would also affect the arithmetic in constructors, whose values RegNets need.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    class EmptyOnMeta(TorchFunctionMode):
        def __torch_function__(
            self, func: Callable[..., T], types: Sequence[type], args: Args = (), kwargs: Kwargs | None = None
        ) -> T:
            kwargs = kwargs or {}
            if func is torch.empty and kwargs.get("device") is None:
                kwargs = {**kwargs, "device": "meta"}
            return func(*args, **kwargs)

    with EmptyOnMeta():
        yield


def build(make: Callable[[], nn.Module], light: bool, spec: str) -> tuple[nn.Module, bool]:
    """Build a model, in eval mode.

    Args:
        make: builds the model.
        light: build it with weights on `meta` if its constructor allows that.
        spec: the model's name in error messages.

    Returns:
        The model, and whether its weights are on `meta`.

    Raises:
        SpecError: ``make`` raised.
    """
    if light:
        with contextlib.suppress(Exception), _quietly(), _without_values():
            return make().eval(), True
    try:
        with _quietly():
            return make().eval(), False
    except Exception as error:
        missing = "missing" in str(error) and isinstance(error, TypeError)
        hint = "; name a function without arguments that builds the model" if missing else ""
        raise SpecError(
            f"{spec}: building the model failed: {type(error).__name__}: {error}{hint}"
        ) from error


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """A context without warnings: those of constructors (deprecations, slow initialisation) are noise."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def near(name: str, names: list[str]) -> str:
    """``"; did you mean ...?"`` with the names closest to an unknown ``name``; empty if none is close."""
    close = difflib.get_close_matches(name, names, n=3)
    return f"; did you mean {' or '.join(close)}?" if close else ""
