"""Real forward passes that leave the model and its inputs unchanged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from archcost.errors import ArchcostError, ModelError
from archcost.trace.modules import ModuleTree
from archcost.trace.state import Untouched, deeper_recursion

__all__ = ["as_it_is", "passed"]

T = TypeVar("T")


@contextmanager
def as_it_is(tree: ModuleTree) -> Iterator[None]:
    """Run the model inside, without gradients; its buffers and the random states are restored afterwards."""
    import torch

    with Untouched(tree) as untouched, torch.no_grad(), deeper_recursion():
        for module in tree.modules.values():
            for buffer in module._buffers.values():
                if buffer is not None and buffer.layout is torch.strided:
                    untouched.keep(buffer.untyped_storage())
        yield


def passed(call: Callable[[], T], what: str) -> T:
    """The output of a forward pass.

    Args:
        call: runs the pass.
        what: the participle for the message, as in "timed".

    Raises:
        ModelError: the pass raised.
    """
    try:
        return call()
    except ArchcostError:
        raise
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
        raise ModelError(f"the model cannot be {what}, its forward pass raised {said}") from error
