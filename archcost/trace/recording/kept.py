"""Memory saved for backward: the bytes of the storages that autograd saves, by module."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Protocol

import torch
from torch._ops import OpOverload
from torch.utils._mode_utils import no_dispatch

from archcost.trace.graph import Args, Kwargs, Origin, TensorRef
from archcost.trace.inputs import Inputs
from archcost.trace.modules import ModuleTree
from archcost.trace.recording.operators import Operator
from archcost.trace.recording.recorder import Recorder
from archcost.trace.recording.recurrent import Layers
from archcost.trace.recording.tensors import Returned, Written, flat, nbytes_of, storage_key
from archcost.trace.state import Untouched


class KeptForBackward(Recorder):
    """A recorder of a pass with gradients: it sums the bytes saved for backward and records no operations.

    The saved tensors are dropped, so that the pass takes neither the time nor the memory of a training step;
    they are held only for a model that calls backward() in its forward.
    """

    def __init__(
        self, tree: ModuleTree, guard: Untouched, on_meta: bool, progress: Callable[[], None] | None = None
    ) -> None:
        super().__init__(tree, guard, on_meta, progress)
        self.bytes: dict[str, int] = {}
        """Saved bytes by the module that first saved a storage; without parameters, buffers and inputs."""
        self.wants_backward = False
        """Whether the model called backward() and so needed a tensor that was dropped."""
        # Storage -> whether an operation made it. Addresses are reused, so a weak reference tells them apart.
        self._made: dict[int, tuple[weakref.ref[torch.Tensor | torch.UntypedStorage], bool]] = {}
        self._kept: dict[int, weakref.ref[torch.Tensor | torch.UntypedStorage]] = {}
        self._state: set[int] = set()

    def watching(self, holding: bool) -> torch.autograd.graph.saved_tensors_hooks:
        """A context in which autograd reports saved tensors to this recorder; held if ``holding``."""
        state = self._state

        def keep(tensor: torch.Tensor) -> torch.Tensor | None:
            if id(tensor) not in state:
                self._keep(tensor)
            # An output saved by its own node would keep the node alive, and so the whole graph.
            return tensor.data if holding else None

        def give_back(kept: torch.Tensor | None) -> torch.Tensor:
            if kept is None:
                self.wants_backward = True
                raise RuntimeError("the model calls backward() in its forward")
            return kept

        return torch.autograd.graph.saved_tensors_hooks(keep, give_back)

    def name_state(self, tensor: torch.Tensor, origin: Origin, name: str) -> None:
        self._state.add(id(tensor))
        self._note(tensor, False)

    def describe(self, value: Inputs) -> None:
        pass

    def _refs_in(self, value: Inputs) -> tuple[TensorRef, ...]:
        return ()

    def _storage(self, tensor: torch.Tensor, origin: Origin = "constant", op: int | None = None) -> int:
        return storage_key(tensor)

    def _operate(
        self, func: OpOverload, operator: Operator, args: Args, kwargs: Kwargs, written: list[Written]
    ) -> Returned:
        given = flat((args, list(kwargs.values())) if kwargs else args)
        result = self._execute(func, operator, args, kwargs, given, written)
        made = flat((result,))
        if operator.name == "aten.mkldnn_rnn_layer.default":
            self._note(made[3], False)  # the workspace of its backward pass
        for tensor in made:
            key = storage_key(tensor)
            known = self._made.get(key)
            if known is None or known[0]() is None:
                self._note(tensor, all(storage_key(other) != key for other in given))
        return result

    def recurrent(self, layers: Layers, args: Args) -> list[torch.Tensor]:
        with no_dispatch():
            results, kept = layers.results(), layers.kept()
        self.whole(layers.op, args, results)
        tensors = flat(args)
        if not torch.is_grad_enabled() or not any(tensor.requires_grad for tensor in tensors):
            return results
        for tensor in layers.kept_outside():
            self._keep(tensor)
        self._add(kept)
        return list(_Whole.apply(results, *tensors))

    def whole(
        self, func: OpOverload, args: Args, results: list[torch.Tensor], inner: tuple[int, int] = (0, 0)
    ) -> list[torch.Tensor]:
        for result in results:
            self._note(result, True)
        return results

    def _note(self, tensor: torch.Tensor, made: bool) -> None:
        key = storage_key(tensor)
        self._made[key] = weakref.ref(tensor if key < 0 else tensor.untyped_storage()), made

    def _is_made(self, tensor: torch.Tensor) -> bool:
        storage, made = self._made.get(storage_key(tensor), (None, False))
        return made and storage is not None and storage() is not None

    def _keep(self, tensor: torch.Tensor) -> None:
        key = storage_key(tensor)
        kept = self._kept.get(key)
        if (kept is None or kept() is None) and self._is_made(tensor):
            self._kept[key] = self._made[key][0]
            self._add(nbytes_of(tensor))

    def _add(self, nbytes: int) -> None:
        module = self.calls[self._stack[-1]].module
        self.bytes[module] = self.bytes.get(module, 0) + nbytes


class _Context(Protocol):
    like: list[torch.Tensor]


class _Whole(torch.autograd.Function):
    """Results that depend on the tensors given, for what comes behind."""

    @staticmethod
    def forward(ctx: _Context, results: list[torch.Tensor], *given: torch.Tensor) -> tuple[torch.Tensor, ...]:
        ctx.like = [torch.empty_like(tensor) for tensor in given]
        return tuple(results)

    @staticmethod
    def backward(ctx: _Context, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return None, *ctx.like
