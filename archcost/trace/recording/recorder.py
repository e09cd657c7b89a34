"""Recorder: hooks tell which module is running, and a dispatch mode below autograd sees each operation.

The hooks are global, so nothing is written into the model; they look up the recorder of their thread. The
dispatch mode sees what PyTorch executes, including functional calls, operators inside TorchScript and fused
paths.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch._ops import OpOverload
from torch.nn.modules import module as hooks
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode

from archcost.errors import ModelError
from archcost.trace.graph import Args, Kwargs, ModuleCall, Op, Origin, PackedWeights, Storage, TensorRef
from archcost.trace.inputs import Inputs
from archcost.trace.modules import ModuleTree, unpack
from archcost.trace.recording.composite import AS_ON_CPU
from archcost.trace.recording.operators import Operator, known_operator
from archcost.trace.recording.recurrent import Layers
from archcost.trace.recording.tensors import Returned, Written, flat, is_mixed, nbytes_of, storage_key
from archcost.trace.recording.turns import this_thread
from archcost.trace.state import Untouched


class NeedsRealValues(RuntimeError):
    """The pass on `meta` needs the values of a tensor."""


# Types of arguments that a Trace holds as they are.
_SIMPLE = frozenset(
    {*(bool, int, float, complex, str, bytes, type(None), slice, type(...)), torch.dtype, torch.layout}
    | {torch.device, torch.memory_format}
)


_Found = list[tuple[torch.Tensor, TensorRef]]
"""The tensors among the arguments of an operation, with their TensorRefs."""


class _Death(weakref.ref[torch.Tensor | torch.UntypedStorage]):
    """A weak reference to a storage, with its address and its index in the Trace."""

    __slots__ = ("index", "key")
    index: int
    key: int


class Recorder(TorchDispatchMode):
    """The record of one forward pass; it keeps no tensor alive longer than the model does."""

    supports_higher_order_operators = True

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Skipping it would import the compiler (2 s) and slow down each operation.
        return False

    def __init__(
        self, tree: ModuleTree, guard: Untouched, on_meta: bool, progress: Callable[[], None] | None = None
    ) -> None:
        super().__init__()
        self.tree = tree
        self.guard = guard
        self.on_meta = on_meta
        self.progress = progress
        self.ops: list[Op] = []
        self.calls: list[ModuleCall] = [ModuleCall(0, "", None, (), 0)]
        self.storages: list[Storage] = []
        self.failed_in: tuple[BaseException, int] | None = None
        """The first exception, and the innermost module call that it came out of."""
        self.failed_op: tuple[BaseException, str, tuple[TensorRef, ...]] | None = None
        """The last exception raised by an operator, with the operator's name and its tensors."""
        self._root = tree.modules[""]
        self._root_entered = False
        self._stack: list[int] = [0]
        self._owner: list[nn.Module] = [self._root]
        self._live: dict[int, int] = {}
        self._watched: dict[int, _Death] = {}
        # The callback is C code: a KeyboardInterrupt in a Python callback of a weak reference would be lost.
        self._dead: deque[_Death] = deque()
        self._writers: list[list[int]] = []
        self._stand_ins: dict[int, torch.Tensor] = {}
        self._packed: dict[int, tuple[torch.ScriptObject, PackedWeights | None]] = {}

    # Modules

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """A context in which the hooks and the dispatch mode are installed for this thread."""
        outer = getattr(this_thread, "recorder", None)
        modes = torch._C._len_torch_dispatch_stack()
        before = hooks.register_module_forward_pre_hook(_entering)
        try:
            after = hooks.register_module_forward_hook(_leaving, with_kwargs=True, always_call=True)
            try:
                this_thread.recorder = self
                with self:
                    yield
            finally:
                this_thread.recorder = outer
                # An error between PyTorch's own pops and pushes leaves modes behind.
                while torch._C._len_torch_dispatch_stack() > modes:
                    torch._C._pop_torch_dispatch_stack(None)
                after.remove()
                # `remove` forgets this table, up to torch 2.14 at least.
                hooks._global_forward_hooks_with_kwargs.pop(after.id, None)
        finally:
            before.remove()
            self._bury()
            # Storages that the model still holds count as alive to the end.
            self._watched.clear()
            self.calls[0].end_op = len(self.ops)

    def enter(self, module: nn.Module, args: Inputs) -> None:
        if self.on_meta and (torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda")):
            raise NeedsRealValues("autocast casts on real devices, but not on `meta`")
        inputs = self._refs_in(args)
        if module is self._root and not self._root_entered:
            self._root_entered = True
            self.calls[0].inputs = inputs
            return
        parent = self._stack[-1]
        name = self.tree.name_under(module, self.calls[parent].module)
        self._stack.append(len(self.calls))
        self._owner.append(module)
        self.calls.append(ModuleCall(len(self.calls), name, parent, inputs, len(self.ops)))

    def leave(self, module: nn.Module, args: Inputs, kwargs: Inputs, output: Inputs) -> None:
        error = sys.exc_info()[1]
        first = self.failed_in is None or self.failed_in[0] is not error
        if output is None and error is not None and first:
            self.failed_in = (error, self._stack[-1])
        if not any(owner is module for owner in reversed(self._owner)):
            return  # it never entered: another hook failed before ours
        # A module whose call was caught on its way out leaves its children behind; close them as well.
        while len(self._stack) > 1 and self._owner[-1] is not module:
            self._close()
        call = self.calls[self._stack[-1]]
        call.outputs = self._refs_in(output)
        if kwargs:
            call.inputs = self._refs_in((args, kwargs))
        if len(self._stack) > 1:
            self._close()
        if self.progress is not None:
            self.progress()

    def _close(self) -> None:
        self.calls[self._stack.pop()].end_op = len(self.ops)
        self._owner.pop()

    # Tensors

    def name_state(self, tensor: torch.Tensor, origin: Origin, name: str) -> None:
        """Register a parameter, buffer or input with its name, before the pass."""
        index = self._storage(tensor, origin)
        if self.storages[index].name is None:
            self.storages[index].name = name

    def describe(self, value: Inputs) -> Any:
        """``value`` with every tensor replaced by its TensorRef."""
        return self._describe(value, [])

    def _storage(self, tensor: torch.Tensor, origin: Origin = "constant", op: int | None = None) -> int:
        if self._dead:
            self._bury()
        key = storage_key(tensor)
        index = self._live.get(key)
        if index is None:
            if tensor.is_nested:
                name = self.calls[self._stack[-1]].module or "the model's own forward"
                raise ModelError(
                    f"{name} computes on a NestedTensor, whose rows have different lengths; "
                    f"pad it: nested.to_padded_tensor(0.0)"
                )
            index = len(self.storages)
            self.storages.append(Storage(index, nbytes_of(tensor), origin, None, op))
            self._writers.append([] if op is None else [op])
            self._live[key] = index
            # Sparse tensors and wrapper subclasses have no storage: the tensor object is tracked.
            death = _Death(tensor if key < 0 else tensor.untyped_storage(), self._dead.append)
            death.key, death.index = key, index
            self._watched[index] = death
        return index

    def _bury(self) -> None:
        """Record the storages that were freed since the last operation."""
        while self._dead:
            death = self._dead.popleft()
            self.storages[death.index].freed_after = len(self.ops) - 1
            self._watched.pop(death.index, None)
            if self._live.get(death.key) == death.index:
                del self._live[death.key]

    def _refs_in(self, value: Inputs) -> tuple[TensorRef, ...]:
        found: _Found = []
        self._describe(value, found)
        return tuple([ref for _, ref in found])

    def _describe(self, value: Inputs, found: _Found) -> Any:
        if type(value) in _SIMPLE:
            return value
        if isinstance(value, torch.Tensor):
            ref = self._ref(value, self._storage(value))
            found.append((value, ref))
            return ref
        if isinstance(value, (list, tuple)):
            return tuple([item if type(item) in _SIMPLE else self._describe(item, found) for item in value])
        if isinstance(value, Mapping):
            return {key: self._describe(item, found) for key, item in value.items()}
        if isinstance(value, torch.ScriptObject):
            if id(value) not in self._packed:
                self._packed[id(value)] = (value, unpack(value))
            return self._packed[id(value)][1]
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {
                f.name: self._describe(getattr(value, f.name, None), found) for f in dataclasses.fields(value)
            }
        # Only the type's name: a Trace keeps no object of the user alive.
        return f"<{type(value).__name__}>"

    def _ref(self, tensor: torch.Tensor, storage: int) -> TensorRef:
        try:
            shape = tuple(tensor.shape)
        except RuntimeError:  # a nested tensor has none
            shape = (tensor.numel(),)
        try:
            stride, offset = tensor.stride(), int(tensor.storage_offset())
        except (NotImplementedError, RuntimeError):
            stride, offset = (1,) * len(shape), 0
        device = "meta" if tensor.is_meta else tensor.device.type
        # `tuple.__new__` skips the checks of TensorRef(...), a third of the time.
        return tuple.__new__(TensorRef, (storage, shape, stride, offset, tensor.dtype, device))

    def _on_meta(self, value: Inputs) -> Any:
        """``value`` with each tensor that has values replaced by a tensor on `meta` of the same shape."""
        if isinstance(value, torch.Tensor):
            if value.is_meta:
                return value
            index = self._storage(value)
            known = self._stand_ins.get(index)
            if known is not None and known.shape == value.shape and known.stride() == value.stride():
                return known
            stand_in = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
            if known is None:
                self._stand_ins[index] = stand_in
                self._live[stand_in.untyped_storage()._cdata] = index
            return stand_in
        if isinstance(value, (list, tuple)):
            return type(value)(self._on_meta(item) for item in value)
        return value

    # Operations

    def __torch_dispatch__(
        self, func: OpOverload, types: Sequence[type], args: Args = (), kwargs: Kwargs | None = None
    ) -> Returned:
        kwargs = kwargs or {}
        operator = known_operator(func)
        if operator.invisible:
            return func(*args, **kwargs)
        if self._dead:
            self._bury()
        if operator.composite:
            decompose = AS_ON_CPU.get(func, func.decompose) if self.on_meta else func.decompose
            with self:
                result = decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        written = operator.writes(args, kwargs) if operator.written or operator.unmarked else []
        return self._operate(func, operator, args, kwargs, written)

    def _operate(
        self, func: OpOverload, operator: Operator, args: Args, kwargs: Kwargs, written: list[Written]
    ) -> Returned:
        found: _Found = []
        op_args = self._describe(args, found)
        op_kwargs = self._describe(kwargs, found) if kwargs else {}
        index = len(self.ops)
        try:
            result = self._execute(func, operator, args, kwargs, [tensor for tensor, _ in found], written)
        except Exception as error:
            self.failed_op = (error, operator.name, tuple(ref for _, ref in found))
            raise
        self._record(index, operator, op_args, op_kwargs, found, written, result)
        return result

    def _execute(
        self,
        func: OpOverload,
        operator: Operator,
        args: Args,
        kwargs: Kwargs,
        tensors: list[torch.Tensor],
        written: list[Written],
    ) -> Returned:
        """Run an operator, with all arguments on `meta` where some of them are."""
        for tensor in written:
            self._before_write(tensor, tensors)
        mixed = self.on_meta and is_mixed(tensors)
        if mixed and not operator.takes_values:
            args = self._on_meta(args)
            kwargs = {key: self._on_meta(value) for key, value in kwargs.items()}
        # Constants made in the forward have values, and operations on constants alone are computed.
        without_values = mixed or (self.on_meta and tensors and tensors[0].is_meta)
        fast = operator.fast if without_values else None
        result = None if fast is None else fast(*args, **kwargs)
        return func(*args, **kwargs) if result is None else result

    def _record(
        self,
        index: int,
        operator: Operator,
        args: Args,
        kwargs: Kwargs,
        found: _Found,
        written: list[Written],
        result: Returned,
        inner: tuple[int, int] = (0, 0),
    ) -> None:
        before = len(self.storages)
        outputs = [
            self._ref(tensor, self._storage(tensor, "operation", index))
            for tensor in ((result,) if isinstance(result, torch.Tensor) else flat((result,)))
        ]
        writes = [ref.storage for ref in outputs if ref.storage >= before]
        is_view = not written and not writes and bool(outputs) and len(self.storages) == before
        overwritten = {id(t) for t in flat(written)} if operator.overwrites else ()
        reads = [ref.storage for tensor, ref in found if id(tensor) not in overwritten]
        fed_by: set[int] = set()
        for storage in reads:
            fed_by.update(self._writers[storage])
        for tensor in flat(written) if written else ():
            ref = self._ref(tensor, self._storage(tensor))
            writes.append(ref.storage)
            if operator.resizes:
                self.storages[ref.storage].nbytes = nbytes_of(tensor)
            if ref.nbytes >= self.storages[ref.storage].nbytes:
                self._writers[ref.storage] = [index]
            else:
                self._writers[ref.storage].append(index)
        moved = () if is_view else tuple(dict.fromkeys(reads)), tuple(dict.fromkeys(writes))
        given = (index, operator.name, self._stack[-1], args, kwargs)
        self.ops.append(Op(*given, tuple(outputs), *moved, tuple(sorted(fed_by)), *inner))

    def recurrent(self, layers: Layers, args: Args) -> list[torch.Tensor] | None:
        """Record recurrent layers, which run step by step, as the single operator that the model calls."""
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in flat(args)):
            return None  # a forward that takes gradients needs PyTorch's own operator
        with no_dispatch():
            results, memory = layers.results(), layers.memory()
        given = sum(nbytes_of(result) for result in results)
        inner = memory.total - given, max(0, memory.peak - given)
        return self.whole(layers.op, args, results, inner)

    def whole(
        self, func: OpOverload, args: Args, results: list[torch.Tensor], inner: tuple[int, int] = (0, 0)
    ) -> list[torch.Tensor]:
        """Record a composite operator as one operation with the given results, without its parts."""
        found: _Found = []
        described = self._describe(args, found)
        self._record(len(self.ops), known_operator(func), described, {}, found, [], results, inner)
        return results

    def _before_write(self, tensor: Written, tensors: list[torch.Tensor]) -> None:
        for written in flat((tensor,)):
            if written.is_meta:
                continue
            if self.on_meta and any(other.is_meta for other in tensors):
                raise NeedsRealValues("a tensor without values is written into one that has them")
            if not self._is_made(written):
                self.guard.keep(written.untyped_storage())

    def _is_made(self, tensor: torch.Tensor) -> bool:
        """Whether an operation of this pass allocated the storage of a tensor."""
        return self.storages[self._storage(tensor)].origin == "operation"


def _entering(module: nn.Module, args: Inputs) -> None:
    recorder = getattr(this_thread, "recorder", None)
    if recorder is not None:
        recorder.enter(module, args)


def _leaving(module: nn.Module, args: Inputs, *rest: Inputs) -> None:
    # After an exception PyTorch leaves the keyword arguments out.
    recorder = getattr(this_thread, "recorder", None)
    if recorder is not None:
        recorder.leave(module, args, rest[0] if len(rest) > 1 else None, rest[-1])
