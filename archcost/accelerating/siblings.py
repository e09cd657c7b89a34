"""Siblings: convolutions that read one value through the same window, run as one convolution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from archcost.errors import ArchcostError
from archcost.nn.path_conv import MOST_SIZES, PathConv, Stamp
from archcost.nn.runners import Clamp, Runner, runner_for
from archcost.paths.path import Prepared

__all__ = ["Siblings"]

_MOST_SHAPES = 256


class Siblings:
    """One call of a path with their weights stacked along the output channels: few filters leave a kernel
    without enough to do.

    Stacked weights are prepared at the first input of a size, and again when any of them has changed.

    Args:
        places: the steps of a `Program` that they are.
    """

    def __init__(self, places: tuple[int, ...]) -> None:
        self.places = places
        self._modules: list[Any] = []
        self._prepared: dict[tuple[int, ...], Prepared | None] = {}
        self._runners: dict[tuple[Any, ...], Runner | None] = {}
        self._widths: list[int] = []
        self._stamp: Stamp | None = None

    def __call__(self, modules: list[Any], x: torch.Tensor, clamp: Clamp) -> Sequence[torch.Tensor]:
        """What each convolution makes of the input: slices of one tensor; nothing where each has to run by
        itself, be it for a hook on it. For whoever has seen to it that nobody looks on."""
        for one in modules:
            if type(one) is not PathConv or one._forward_hooks or one._forward_pre_hooks:
                return ()
            if not one.is_own_kind(x):
                return ()
        if modules != self._modules or self._stamp is None or not self._stamp.holds():
            self._remember(modules)
        key = (x.shape, x.stride(), clamp, torch.get_num_threads())
        if key not in self._runners and len(self._runners) < _MOST_SHAPES:
            self._runners[key] = self._runner(x, clamp)
        run = self._runners.get(key)
        return () if run is None else torch.split_with_sizes(run(x, None), self._widths, 1)

    def _remember(self, modules: list[PathConv]) -> None:
        """Note what weights are about to be prepared from."""
        self._prepared.clear()
        self._runners.clear()
        found = [(table, key, table.get(key)) for one in modules for table, key in one.sources()]
        self._modules, self._stamp = modules, Stamp(found)
        self._widths = [one.out_channels for one in modules]

    def _runner(self, x: torch.Tensor, clamp: Clamp) -> Runner | None:
        prepared = self._of_size(x)
        if prepared is None:
            return None
        with torch.inference_mode(False), torch.no_grad():
            return runner_for(self._modules[0].path, x, prepared, clamp)

    def _of_size(self, x: torch.Tensor) -> Prepared | None:
        size, first = tuple(x.shape[2:]), self._modules[0]
        if len(size) != first.axes or not len(x) or x.shape[1] != first.in_channels:
            return None
        if any(one.sizes is not None and size not in one.sizes for one in self._modules):
            return None
        if size not in self._prepared:
            if len(self._prepared) >= MOST_SIZES:
                return None
            self._prepared[size] = self._prepare(x)
        return self._prepared[size]

    def _prepare(self, x: torch.Tensor) -> Prepared | None:
        first = self._modules[0]
        for one in self._modules:
            weight = one._parameters["weight"]
            if type(weight) is not nn.Parameter or weight.dtype is not x.dtype or weight.device != x.device:
                return None
        with torch.inference_mode(False), torch.no_grad():
            try:
                pairs = [one.weights() for one in self._modules]
                weight = torch.cat([weight for weight, _ in pairs])
                biases = [weight.new_zeros(len(w)) if bias is None else bias for w, bias in pairs]
                spec = replace(first.spec(x.shape[2:], len(x)), out_channels=len(weight), bias=True)
                return first.path.prepare(weight, torch.cat(biases), spec, first.epilogue)
            except (ArchcostError, MemoryError, RuntimeError):
                return None  # by itself each says why

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(Siblings(self.places))}
