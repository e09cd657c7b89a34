"""PathConv: a convolution by a path of `archcost.paths` where that can be, and by PyTorch elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from math import inf
from operator import attrgetter
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import forward_ad

from archcost.errors import ArchcostError
from archcost.nn.absorbed import Absorbed, Source
from archcost.nn.folding import folded
from archcost.nn.like import ConvLike
from archcost.nn.runners import Clamp, Runner, runner_for
from archcost.paths.epilogue import PLAIN, Epilogue
from archcost.paths.path import ExecutionPath, Prepared
from archcost.paths.registry import available, get

__all__ = ["MOST_SIZES", "PathConv", "Stamp", "looked_on", "seen_from_outside"]

MOST_SIZES = 4
"""The most input sizes with prepared weights; further sizes run by PyTorch, faster than preparing."""

_MOST_SHAPES = 256
_has_global_hooks: Callable[[], bool] = nn.modules.module._has_any_global_hook
_place, _written, _threads = torch.Tensor.data_ptr, attrgetter("_version"), torch.get_num_threads


class PathConv(ConvLike):
    """A fused block of a convolution, a batch normalisation and a clamp, executed by a path.

    Weights are prepared at the first input of a size, and again when they have changed: by an optimiser,
    ``load_state_dict``, any operation in place. (Writes through ``weight.data`` leave no trace: call
    `forget` after them.) PyTorch's own operations run instead while gradients are recorded; in another
    dtype or on another device than at first; for input sizes that were not asked for, that the path
    refuses, or beyond `MOST_SIZES`; and under compilers, tracers, autocast, vmap and dispatch modes, which
    see the same operations as of the replaced layer.

    Args:
        layer: the convolution, whose parameters it takes over.
        path: its name, or an `ExecutionPath`; one that is not registered must be picklable.
        epilogue: clamp and memory format of the outputs.
        sizes: spatial sizes of inputs that the path executes; None: all.
        absorbed: the batch normalisation after it, folded into the weights in eval mode.
    """

    def __init__(
        self,
        layer: nn.Module,
        path: str | ExecutionPath,
        *,
        epilogue: Epilogue = PLAIN,
        sizes: Iterable[tuple[int, ...]] | None = None,
        absorbed: Absorbed | None = None,
    ) -> None:
        super().__init__(layer)
        epilogue.check(self.axes)
        self._path: str | ExecutionPath = get(path) if isinstance(path, str) else path
        self.epilogue = epilogue
        self.sizes = None if sizes is None else frozenset(tuple(size) for size in sizes)
        # In a tuple, because it is registered under its own name, and has its state_dict keys there.
        self._absorbed = () if absorbed is None else (absorbed,)
        self._dtype, self._device = self.weight.dtype, self.weight.device
        self._prepared: dict[tuple[int, ...], Prepared | str] = {}
        self._runners: dict[tuple[torch.Size, tuple[int, ...], Clamp, int], Runner | None] = {}
        self._stamp: Stamp | None = None

    @property
    def path(self) -> ExecutionPath:
        """The path that executes the convolution."""
        if isinstance(self._path, str):  # as it comes out of a pickle
            self._path = get(self._path)
        return self._path

    def forward(self, x: torch.Tensor, output_size: list[int] | None = None) -> torch.Tensor:
        if output_size is None and self._may_run(x):
            run = self._ready(x, self.epilogue.clamp)
            if run is not None:
                return run(x, None)
        return self._by_pytorch(x, output_size)

    def runner(self, x: torch.Tensor, clamp: Clamp) -> Runner | None:
        """The pre-bound call for inputs like ``x``; None where PyTorch has to run, or with forward hooks.

        The caller makes sure that no gradients are recorded and nothing traces. ``clamp`` may differ from the
        epilogue's where that has none.
        """
        if self._forward_hooks or self._forward_pre_hooks or not self.is_own_kind(x):
            return None
        return self._ready(x, clamp)

    def refusal(self, x: torch.Tensor) -> str | None:
        """Why PyTorch would execute this input, here and now; None where the path does."""
        if not self._may_run(x):
            return (
                "gradients are recorded, or a tracer runs, or the input is not a batch of the dtype and "
                "device that the path was chosen for"
            )
        if self._ready(x, self.epilogue.clamp) is not None:
            return None
        return self._remember() or str(self._of_size(x))

    def forget(self) -> None:
        """Prepare the weights again at the next call."""
        for table in ("_prepared", "_runners"):
            vars(self).get(table, {}).clear()
        self._stamp = None

    def _may_run(self, x: torch.Tensor) -> bool:
        """Whether this is an ordinary call for inference, for which the path was chosen.

        It runs at every call, and so uses cheap checks alone: a small layer takes a few microseconds.
        """
        if torch.compiler.is_compiling() or not self.is_own_kind(x):
            return False
        if torch.is_grad_enabled() and (x.requires_grad or self._wants_gradients()):
            return False
        return not looked_on()

    def is_own_kind(self, x: torch.Tensor) -> bool:
        """Whether the input has the dtype and device that the path was chosen for, and the mode is eval."""
        if type(x) is not torch.Tensor or x.dtype is not self._dtype or x.device != self._device:
            return False
        for one in self._absorbed:
            if one.training:
                return False
        return x.layout is torch.strided and not x.is_neg()

    def _ready(self, x: torch.Tensor, clamp: Clamp) -> Runner | None:
        """The pre-bound call for an input, its weights prepared by now; None where PyTorch has to run."""
        if self._stamp is None or not self._stamp.holds():
            self.forget()
            if self._remember() is not None:
                return None
        key = (x.shape, x.stride(), clamp, _threads())
        try:
            return self._runners[key]
        except KeyError:
            prepared = self._of_size(x)
            run = None if isinstance(prepared, str) else self._runner(x, prepared, clamp)
            if len(self._runners) < _MOST_SHAPES:
                self._runners[key] = run
            return run

    def _runner(self, x: torch.Tensor, prepared: Prepared, clamp: Clamp) -> Runner:
        with torch.inference_mode(False), torch.no_grad():
            return runner_for(self.path, x, prepared, clamp)

    def _of_size(self, x: torch.Tensor) -> Prepared | str:
        size = tuple(x.shape[2:])
        if len(size) != self.axes or not len(x) or x.shape[1] != self.in_channels:
            return "it is empty, or has other axes or channels than a batch for this layer"
        if self.sizes is not None and size not in self.sizes:
            return f"inputs of {size} were not asked for"
        if size not in self._prepared:
            kept = sum(isinstance(one, Prepared) for one in self._prepared.values())
            if kept >= MOST_SIZES or len(self._prepared) >= _MOST_SHAPES:
                return f"weights are prepared for {kept} other sizes"
            self._prepared[size] = self._prepare(x)
        return self._prepared[size]

    def _prepare(self, x: torch.Tensor) -> Prepared | str:
        path = self.path
        # What is made in inference mode could not be used outside it.
        with torch.inference_mode(False), torch.no_grad():
            try:
                weight, bias = self.weights()
                spec = replace(self.spec(x.shape[2:], len(x)), bias=bias is not None)
                refused = path.supports(spec, x.dtype)
                return path.prepare(weight, bias, spec, self.epilogue) if refused is None else refused
            except (ArchcostError, MemoryError, RuntimeError) as error:
                return str(error)  # where the input is at fault, PyTorch says so too

    def weights(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Weight and bias for the path, the batch normalisation folded in."""
        weight, bias = self._parameters["weight"], self._parameters["bias"]
        assert weight is not None
        for one in self._absorbed:
            return folded(weight, bias, one, transposed=self.transposed, groups=self.groups)
        return weight, bias

    def sources(self) -> Iterator[Source]:
        """The tensors that prepared weights depend on, each as a module's table and the key in it."""
        for key in ("weight", "bias"):
            yield self._parameters, key
        for one in self._absorbed:
            yield from one.sources()

    def _wants_gradients(self) -> bool:
        return any(
            t is not None and t.requires_grad for t in (table.get(key) for table, key in self.sources())
        )

    def _remember(self) -> str | None:
        """Record the tensors that weights are prepared from; or return why PyTorch has to run."""
        found = [(table, key, table.get(key)) for table, key in self.sources()]
        weight = found[0][2]
        if type(weight) is not nn.Parameter:
            return "its weight has been parametrized, pruned or substituted since"
        if weight.dtype is not self._dtype or weight.device != self._device:
            return "its weights have been moved"
        self._stamp = Stamp(found)
        return None

    def _by_pytorch(self, x: torch.Tensor, output_size: list[int] | None) -> torch.Tensor:
        y = self.plain(x, output_size)
        for one in self._absorbed:
            y = one.normalised(y)
        if self.epilogue.clamp == (0, inf):
            y = F.relu(y)
        elif self.epilogue.clamp is not None:
            y = F.hardtanh(y, *self.epilogue.clamp)  # unlike clamp's, its gradient is 0 at the limits
        layout = self.epilogue.memory_format
        return y if layout is None else y.contiguous(memory_format=layout)

    def __getstate__(self) -> dict[str, Any]:
        registered = not isinstance(self._path, str) and self._path.name in available()
        by_name = registered and get(self.path.name) is self._path
        path = self.path.name if by_name else self._path
        return {**vars(self), "_path": path, "_prepared": {}, "_runners": {}, "_stamp": None}

    def extra_repr(self) -> str:
        path = self._path if isinstance(self._path, str) else self._path.name
        said = f"{super().extra_repr()}, path={path}"
        said += ", batch normalised" * bool(self._absorbed)
        return said if self.epilogue.clamp is None else f"{said}, clamp={self.epilogue.clamp}"


class Stamp:
    """The state of tensors: identity, address, and number of writes in place."""

    def __init__(
        self, found: list[tuple[Mapping[str, torch.Tensor | None], str, torch.Tensor | None]]
    ) -> None:
        self._found = tuple(found)
        self._tensors = tuple(tensor for _, _, tensor in found if tensor is not None)
        # Those of inference mode do not count.
        self._counted = tuple(tensor for tensor in self._tensors if not tensor.is_inference())
        # An alias holds on to the memory, so that no other tensor can come to lie at the same place.
        self._aliases = tuple(tensor.detach() for tensor in self._tensors)
        self._places = tuple(map(_place, self._tensors))
        self._versions = tuple(map(_written, self._counted))

    def holds(self) -> bool:
        """Whether all tensors are still the same, and unwritten since."""
        for table, key, tensor in self._found:
            if table.get(key) is not tensor:
                return False
        same = tuple(map(_place, self._tensors)) == self._places
        return same and tuple(map(_written, self._counted)) == self._versions


def seen_from_outside() -> bool:
    """Whether a convolution has to be called as a module: for gradients, global hooks or tracers."""
    if torch.compiler.is_compiling() or torch.is_grad_enabled() or looked_on():
        return True
    return _has_global_hooks()


def looked_on() -> bool:
    """Whether tensor operations are recorded or changed: by tracers, modes, autocast or vmap."""
    return bool(
        torch._C._is_any_autocast_enabled()
        or torch._C._len_torch_dispatch_stack()
        or torch._C._functorch.peek_interpreter_stack() is not None
        or torch._C._is_tracing()
        or forward_ad._current_level >= 0
    )
