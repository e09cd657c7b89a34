"""Inputs and outputs of layers recorded while batches pass through a model, which ends unchanged."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from math import gcd, prod

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from archcost.errors import ArchcostError, InputError, RewriteError, one_line
from archcost.nn.like import ConvLike
from archcost.paths.algorithms.im2col import windowed
from archcost.paths.geometry import padded
from archcost.spec import ConvSpec
from archcost.surgery.checking import evaluating
from archcost.surgery.outputs import fresh
from archcost.trace.call import Inputs
from archcost.trace.graph import Args, Kwargs
from archcost.trace.modules import walk
from archcost.trace.state import Untouched

__all__ = [
    *("Batches", "Runner", "again", "as_maps", "batches_in", "layer_of", "like_of", "patches", "running"),
    *("space_of", "spaced", "weight_of"),
]

Batches = Iterable[Inputs]
"""Calibration data: batches as a model takes its inputs."""

Tap = Callable[[Tensor, Tensor], None]
"""Called with the input and output of a layer right after it has run, before they can be overwritten."""


_HINT = "; a batch has the model's inputs only: of (x, y) give x, [x for x, _ in loader]"


class _Enough(BaseException):
    """Ends a pass behind the last tapped layer; a BaseException, so that no model catches it."""


class Runner:
    """Forward passes of one model in eval mode; see `running`."""

    def __init__(self, model: nn.Module, what: str) -> None:
        self.model = model
        self.what = what
        self._calls = 0
        self._limit: int | None = None

    def __call__(self, batch: Inputs, calls: int | None = None) -> int:
        """Run a forward pass, and return the number of calls of tapped layers; ``calls`` ends it after so
        many."""
        args, kwargs = fresh(batch)
        self._calls, self._limit = 0, calls
        try:
            self.model(*args, **kwargs)
        except _Enough:
            pass
        except Exception as error:
            hint = _HINT * (isinstance(batch, (list, tuple)) and len(batch) > 1)
            if isinstance(error, ArchcostError):
                raise RewriteError(f"{error}{hint}") from error
            raise RewriteError(
                f"the {self.what} model's forward failed on a batch: {one_line(error)}{hint}"
            ) from error
        return self._calls

    def called(self) -> None:
        self._calls += 1
        if self._limit is not None and self._calls >= self._limit:
            raise _Enough


@contextlib.contextmanager
def running(model: nn.Module, taps: Mapping[nn.Module, Tap], what: str = "original") -> Iterator[Runner]:
    """A `Runner` for forward passes in eval mode without gradients; the model is restored on leaving.

    Taps see inputs after the layer's own pre-hooks, and outputs before its hooks.
    """
    runner = Runner(model, what)
    with Untouched(walk(model)), evaluating(model), contextlib.ExitStack() as stack:
        for layer, tap in taps.items():
            for handle in _hooked(layer, tap, runner):
                stack.callback(handle.remove)
        yield runner


def _hooked(layer: nn.Module, tap: Tap, runner: Runner) -> Iterator[RemovableHandle]:
    waiting: list[Tensor] = []

    def before(_: nn.Module, args: Args, kwargs: Kwargs) -> None:
        x = args[0] if args else kwargs.get("input")
        if not isinstance(x, Tensor) or x.is_complex():
            raise RewriteError(f"the input of a {type(layer).__name__} is not a tensor of real numbers")
        waiting.append(x)

    def after(_: nn.Module, args: Args, kwargs: Kwargs, output: Tensor) -> None:
        # Tensors kept by a tap are used after the pass, and must not be inference tensors.
        with torch.inference_mode(False), torch.no_grad():
            tap(waiting.pop().detach(), output)
        runner.called()

    yield layer.register_forward_pre_hook(before, with_kwargs=True)
    yield layer.register_forward_hook(after, with_kwargs=True, prepend=True)


def layer_of(model: nn.Module, name: str) -> nn.Module:
    """The module of a name.

    Raises:
        RewriteError: the model has no such module.
    """
    try:
        return model.get_submodule(name)
    except AttributeError as error:
        raise RewriteError(f"the model has no module {name!r}") from error


def again(batches: Batches, passes: int) -> Iterator[Inputs]:
    """The batches from the first on.

    Args:
        passes: how often they are needed.

    Raises:
        InputError: they are an iterator, for a single pass, and more are needed; or there are no batches.
    """
    given = iter(batches)
    if given is batches and passes > 1:
        raise InputError(
            f"batches: a {type(batches).__name__} allows a single pass, and {passes} are needed: give a "
            f"list of "
            f"batches or a DataLoader"
        )
    empty = True
    for batch in given:
        empty = False
        yield batch
    if empty:
        raise InputError("batches: there are none")


def batches_in(batches: Batches) -> int | None:
    """Number of batches; None where it is not known before a pass."""
    try:
        return len(batches) if isinstance(batches, Sized) else None
    except TypeError:
        return None


def like_of(layer: nn.Module) -> ConvLike:
    """A convolution with its attributes as `ConvLike` reads them; an ``nn.Linear`` as one of a single tap."""
    if isinstance(layer, nn.Linear):
        return ConvLike(nn.Conv1d(layer.in_features, layer.out_features, 1, device="meta"))
    return layer if isinstance(layer, ConvLike) else ConvLike(layer)


def as_maps(layer: nn.Module, x: Tensor) -> Tensor:
    """An input or output of a layer as (N, C, *size), that of an ``nn.Linear`` as (N, C, positions)."""
    if isinstance(layer, nn.Linear):
        x = x.reshape(1, -1) if x.dim() == 1 else x
        return x.reshape(len(x), -1, x.shape[-1]).transpose(1, 2)
    return x[None] if x.dim() == like_of(layer).axes + 1 else x


def weight_of(layer: nn.Module) -> Tensor:
    """The weight of a convolution."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight


def space_of(layer: nn.Module, x: Tensor) -> tuple[Tensor, ConvSpec]:
    """The input with a batch axis, and the layer's convolution for it."""
    x = as_maps(layer, x)
    return x, like_of(layer).spec(tuple(x.shape[2:]), len(x))


def spaced(positions: int, most: float, size: tuple[int, ...]) -> int:
    """Step between positions for about ``most`` of them, coprime to the length of rows."""
    stride = max(1, int(positions // max(most, 1)))
    while any(gcd(stride, n) > 1 for n in size if n > 1) and stride > 1:
        stride += 1
    return stride


def patches(x: Tensor, spec: ConvSpec, picked: Tensor) -> Tensor:
    """Patches of a layer's input at some positions of its output: (groups, positions, in / groups * taps).

    Args:
        x: the layer's input, (N, C, *size).
        picked: (positions,), indices into the flattened (N, *output_size).
    """
    windows = windowed(padded(x, spec), spec)
    images, *where = torch.unravel_index(picked, (len(x), *spec.output_size))
    there: tuple[Tensor | slice, ...] = (images, slice(None), *where)
    found = windows[there]  # (positions, C, *taps)
    found = found.reshape(len(picked), spec.groups, -1)
    assert found.shape[2] * spec.groups == spec.in_channels * prod(spec.kernel_size)
    return found.transpose(0, 1)
