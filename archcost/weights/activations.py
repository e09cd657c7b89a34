"""Outputs of layers kept from one pass to the next, so that a pass computes only what follows a change."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from math import inf, nan
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.pooling import _AvgPoolNd, _MaxPoolNd

from archcost.errors import RewriteError
from archcost.nn.like import ConvLike
from archcost.trace.call import Inputs
from archcost.trace.inputs import map_tensors, tensors_in
from archcost.weights.features import running

__all__ = ["Activations", "giving", "layers_in"]

_MOST = 2**28
"""Most bytes of outputs kept; batches beyond are computed from the first layer on."""
_KINDS = (_ConvNd, nn.Linear, ConvLike, _NormBase, _MaxPoolNd, _AvgPoolNd, nn.RNNBase)
"""Layers that take time, and give tensors of their own."""


def layers_in(model: nn.Module) -> list[nn.Module]:
    """The layers of a model that take time, and whose forward is that of their class."""
    return [one for one in model.modules() if isinstance(one, _KINDS) and "forward" not in vars(one)]


@contextmanager
def giving(forwards: Mapping[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """Other forwards for some modules, as long as it lasts; hooks stay."""
    try:
        for module, forward in forwards.items():
            vars(module)["forward"] = forward
        yield
    finally:
        for module in forwards:
            vars(module).pop("forward", None)


class _Stale(BaseException):
    """A layer read what was not kept; a BaseException, so that no model catches it."""


class Activations:
    """The outputs of layers for each batch, kept as long as layers behind the last fitted one read them.

    With layers fitted in order of execution, a pass up to the next one computes those alone that follow the
    one before: earlier ones give what they gave or, where nothing reads it any more, NaN for a single input.
    Layers that are called several times are computed in every pass.
    """

    def __init__(
        self, model: nn.Module, batches: Sequence[Inputs], calls: Mapping[nn.Module, int] | None = None
    ) -> None:
        """
        Args:
            calls: of the layers that passes will end behind; None: passes go to the end.
        """
        outputs: list[Tensor] = []
        with running(model, dict.fromkeys(calls or (), lambda x, y: None), "rewritten") as run:
            limit = None if calls is None else sum(calls.values())
            handle = model.register_forward_hook(lambda _, args, y: outputs.extend(tensors_in(y)))
            try:
                try:
                    self._at, self._read = _readers(lambda: run(_example(batches[0]), limit), model, outputs)
                except RewriteError:  # the model may ask for a number of inputs
                    outputs.clear()
                    self._at, self._read = _readers(lambda: run(batches[0], limit), model, outputs)
            finally:
                handle.remove()
        self._kept: list[dict[nn.Module, Any]] = [{} for _ in batches]
        self._bytes = 0
        self._full = False
        """Whether the outputs of the present pass did not fit."""
        self._single = True
        """Whether what is not read can be that of a single input: the model may ask for all."""

    def run(self, index: int, target: nn.Module, forward: Callable[[], None]) -> None:
        """A pass of a batch for a layer, where those before it are fitted; it may be begun twice."""
        if target not in self._read:
            return forward()
        until, self._full = self._at[target], False
        before = [one for one in self._read if self._at[one] < until]
        handle = target.register_forward_pre_hook(_checked, prepend=True)
        try:
            with giving({one: partial(self._forward, index, one, until) for one in before}):
                forward()
        except (_Stale, RewriteError) as error:
            handle.remove()
            self._single = self._single and isinstance(error, _Stale)
            self._forget(index)
            forward()
        finally:
            handle.remove()

    def _forward(self, index: int, layer: nn.Module, until: int, *args: Any, **kwargs: Any) -> Any:
        kept = self._kept[index]
        known = kept.get(layer)
        y = type(layer).forward(layer, *args, **kwargs) if known is None else known
        if self._full:
            return y
        kept[layer] = map_tensors(y, Tensor.detach if self._read[layer] >= until else self._unread)
        self._bytes += _size(kept[layer]) - (0 if known is None else _size(known))
        if self._bytes > _MOST:
            self._forget(index)
        return map_tensors(y, Tensor.clone)  # the model may write into it

    def _unread(self, y: Tensor) -> Tensor:
        shape = (1, *y.shape[1:]) if self._single and y.dim() > 1 else y.shape
        return y.new_full((), nan if y.is_floating_point() else 0).expand(shape)

    def _forget(self, index: int) -> None:
        self._bytes -= sum(map(_size, self._kept[index].values()))
        self._kept[index].clear()
        self._full = True


def _size(y: Any) -> int:
    return sum(one.untyped_storage().nbytes() for one in tensors_in(y))


def _checked(_: nn.Module, args: object) -> None:
    if any(bool(x.isnan().any()) for x in tensors_in(args)):
        raise _Stale


def _example(batch: Inputs) -> Inputs:
    return batch[:1] if isinstance(batch, Tensor) and batch.dim() > 1 else batch


def _other(y: Tensor) -> Tensor:
    return -1 - 2 * y if y.is_floating_point() else y.clone()


def _readers(
    run: Callable[[], object], model: nn.Module, outputs: list[Tensor]
) -> tuple[dict[nn.Module, int], dict[nn.Module, float]]:
    """The layers' positions in order of their first calls, and for those that are called once the position
    of the last one that reads what they give; infinite where the model's outputs do.

    Found by changed values: each layer in turn gives others, while all others give what they gave.
    """
    read: dict[nn.Module, list[Tensor]] = {}
    gave: dict[nn.Module, Any] = {}
    order: list[nn.Module] = []

    def first(layer: nn.Module, *args: Any, **kwargs: Any) -> Any:
        order.append(layer)
        read[layer] = [one.clone() for one in tensors_in([args, kwargs])]
        y = type(layer).forward(layer, *args, **kwargs)
        gave[layer] = map_tensors(y, Tensor.clone)
        return y

    with giving({one: partial(first, one) for one in layers_in(model)}):
        run()
    at = {one: position for position, one in enumerate(dict.fromkeys(order))}
    once = [one for one in at if order.count(one) == 1]
    last = dict.fromkeys(once, -1.0)
    whole = outputs.copy()

    def again(layer: nn.Module, changed: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if not all(map(torch.equal, tensors_in([args, kwargs]), read[layer])):
            last[changed] = max(last[changed], at[layer])
        return map_tensors(gave[layer], _other if layer is changed else Tensor.clone)

    for changed in once:
        outputs.clear()
        with giving({one: partial(again, one, changed) for one in once}):
            run()
        if not all(map(torch.equal, outputs, whole)):
            last[changed] = inf
    return at, last
