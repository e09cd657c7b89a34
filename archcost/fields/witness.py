"""The witness: NaN in the model's input verifies a receptive field.

Results computed from NaN are NaN: NaN outside the claimed window must not reach the output position, NaN on
its first or last pixel must. A copy of the model runs on the CPU, in float64 and on PyTorch's reference
kernels, since fast kernels (Winograd, blocked layouts) may spread NaN to neighbouring outputs.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from archcost.errors import ModelError
from archcost.fields.field import ReceptiveField, Window
from archcost.fields.replay.masks import LOW
from archcost.trace.call import Call
from archcost.trace.failure import said_by
from archcost.trace.graph import Args, Kwargs
from archcost.trace.inputs import tensors_in
from archcost.trace.modules import ModuleTree, state_of, walk
from archcost.trace.recording.tensors import Returned
from archcost.trace.state import Untouched

__all__ = ["Claim", "Planted", "Watched", "Witness", "bear_witness"]


@dataclass(frozen=True)
class Planted:
    """A run with NaN at ``pixels`` along an axis: whether it must reach the position, and whether it did."""

    axis: int
    pixels: tuple[Window, ...]
    must_reach: bool
    reached: bool

    @property
    def agrees(self) -> bool:
        return self.must_reach == self.reached

    def __str__(self) -> str:
        where = " and ".join(f"{lo}" if lo == hi else f"{lo} to {hi}" for lo, hi in self.pixels)
        did = "reached" if self.reached else "did not reach"
        must = "must" if self.must_reach else "must not"
        return f"axis {self.axis}: NaN at {where} {did} the position; it {must}"


@dataclass(frozen=True)
class Witness:
    """The runs that verify a claimed receptive field, and whether the model agrees."""

    runs: tuple[Planted, ...]

    @property
    def agrees(self) -> bool:
        return all(run.agrees for run in self.runs)

    def __str__(self) -> str:
        wrong = [str(run) for run in self.runs if not run.agrees]
        if not wrong:
            return f"the model agrees: {len(self.runs)} runs with NaN inside or outside the window"
        return "the model DISAGREES: " + "; ".join(wrong)


class Watched(NamedTuple):
    """The index of a call, the index of a tensor in its output, and that tensor's shape."""

    call: int
    output: int
    shape: tuple[int, ...]


class Claim(NamedTuple):
    """A receptive field, and the calls and dimensions of the model in which to verify it."""

    field: ReceptiveField
    dims: tuple[int, ...]
    """The dimensions of the input tensor that are the field's axes."""
    places: tuple[int, ...]
    """The dimensions of the layer's output that ``field.position`` indexes."""
    watched: tuple[Watched, ...]
    """The calls of the layer whose union is the field."""
    op: str | None = None
    """The operator in a forward whose output has the field, with ``watched`` its calls; None for a module."""


def bear_witness(model: nn.Module, args: Args, kwargs: Kwargs, claims: Iterable[Claim]) -> list[Witness]:
    """Verify receptive fields by NaN in the inputs of a copy of the model.

    Args:
        model: the traced model.
        args: its positional arguments.
        kwargs: its keyword arguments.
        claims: the fields to verify.

    Returns:
        A Witness per claim.

    Raises:
        ModelError: the model cannot run in float64, has no values or integers only, or returns NaN anyway.
    """
    with _reference(model) as reference:
        clean = _doubled(Call(args, kwargs))
        return [_bear(reference, clean, claim) for claim in claims]


def _bear(model: _Reference, clean: Call, claim: Claim) -> Witness:
    field = claim.field
    where = f"{model.name}, {field.layer or 'its output'}"
    target = tensors_in(clean)[field.input_index]
    if not (target.is_floating_point() or target.is_complex()):
        raise ModelError(
            f"{where}: its input has an integer dtype, which has no NaN to verify the field with"
        )
    index = dict(zip(claim.places, field.position, strict=True))

    def run(plant: Callable[[torch.Tensor], None] | None) -> torch.Tensor:
        model.hidden.met = False
        changed = target.clone()
        if plant is not None:
            plant(changed)
        found = model.outputs(clean.mapped(lambda t: changed if t is target else t.clone()), claim)
        return torch.cat([x[tuple(index.get(d, slice(None)) for d in range(x.dim()))].ravel() for x in found])

    before = run(None)
    if not (before.is_floating_point() or before.is_complex()):
        raise ModelError(f"{where}: its output has an integer dtype, which NaN does not reach")
    if before.isnan().any():
        raise ModelError(
            f"{where}: it is NaN for finite inputs; use weights and inputs for which it is finite"
        )
    runs = []
    for axis, dim in enumerate(claim.dims):
        size, (lo, hi) = field.input_size[axis], field.window[axis]
        seen = [] if lo > hi else [(lo, lo), (hi, hi)]
        unseen = [(0, size - 1)] if lo > hi else [(0, lo - 1), (hi + 1, size - 1)]
        for pixel in dict.fromkeys(seen):
            runs.append(_planted(run, before, axis, dim, [pixel], model.hidden))
        beyond = [pixels for pixels in unseen if pixels[0] <= pixels[1]]
        if beyond:
            runs.append(_planted(run, before, axis, dim, beyond, None))
    return Witness(tuple(runs))


def _planted(
    run: Callable[[Callable[[torch.Tensor], None]], torch.Tensor],
    before: torch.Tensor,
    axis: int,
    dim: int,
    pixels: list[Window],
    hidden: _Hidden | None,
) -> Planted:
    """Run with NaN at ``pixels``, which must reach the position if ``hidden`` is given, and must not if None.

    ``hidden`` tells whether zeros were multiplied by NaN in that run.
    """

    def fill(values: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.Tensor], None]:
        def plant(x: torch.Tensor) -> None:
            for lo, hi in pixels:
                where = x.narrow(dim, lo, hi - lo + 1)
                where.copy_(values(where))

        return plant

    must_reach = hidden is not None
    reached = bool(run(fill(lambda x: torch.full_like(x, float("nan")))).isnan().any())
    if reached and (hidden is None or hidden.met):
        # Zero times NaN is NaN, but a tap of weight zero or a masked key reads nothing: finite values decide.
        noise = torch.Generator().manual_seed(0)

        def moves(scale: float) -> bool:
            drawn = fill(lambda x: scale * torch.randn(x.shape, dtype=x.dtype, generator=noise))
            return not torch.equal(run(drawn), before)

        # Under ReLU and maxima a draw may hide behind larger values: several, and larger ones.
        reached = any(map(moves, (3, 3, 1e3, 1e6) if must_reach else (3, 3, 10, 10, 30, 30)))
    return Planted(axis, tuple(pixels), must_reach, reached)


def _doubled(value: Call) -> Call:
    """The structure with copies of its tensors in double precision on the CPU; a repeated tensor once."""
    made: dict[int, torch.Tensor] = {}

    def double(tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) not in made:
            wide = torch.complex128 if tensor.is_complex() else torch.float64
            exact = not (tensor.is_floating_point() or tensor.is_complex())
            made[id(tensor)] = tensor.detach().to("cpu", tensor.dtype if exact else wide, copy=True)
        return made[id(tensor)]

    return value.mapped(double)


@contextmanager
def _reference(model: nn.Module) -> Iterator[_Reference]:
    """A copy of the model on the CPU in float64, with PyTorch's reference kernels enabled."""
    name = type(model).__name__
    tree = walk(model)
    if any(tensor.is_meta for *_, tensor in state_of(tree)):
        raise ModelError(f"{name}: its weights are on `meta` and have no values; load them first")
    for layer, module in tree.modules.items():
        if type(module).__module__.startswith("torch.ao.nn.") and ".quantized" in type(module).__module__:
            raise ModelError(
                f"{name}: {layer or 'it'} computes in integers, which have no NaN; verify the "
                f"floating-point model that it was made from"
            )
    try:
        copied = copy.deepcopy(model).to("cpu").double()._apply(_complex_doubled)
    except Exception as error:
        raise ModelError(f"{name}: cannot be copied in float64 to verify the field: {error}") from error
    with _reference_kernels():
        yield _Reference(copied, walk(copied), name, _Hidden(copied))


def _complex_doubled(tensor: torch.Tensor) -> torch.Tensor:
    # `Module.double` leaves complex numbers as they are.
    return tensor.to(torch.complex128) if tensor.is_complex() else tensor


@contextmanager
def _reference_kernels() -> Iterator[None]:
    fused, blocked = torch.backends.mha.get_fastpath_enabled(), torch._C._get_mkldnn_enabled()
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # of the constants that a forward makes
    torch.backends.mha.set_fastpath_enabled(False)
    torch._C._set_mkldnn_enabled(False)  # `torch.backends.mkldnn.flags` would set TF32, and warn
    try:
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            yield
    finally:
        torch.set_default_dtype(dtype)
        torch._C._set_mkldnn_enabled(blocked)
        torch.backends.mha.set_fastpath_enabled(fused)


class _Reached(BaseException):
    """Raised in a hook to end the forward pass; a BaseException, which the model's code does not catch."""


class _Reference(NamedTuple):
    model: nn.Module
    tree: ModuleTree
    name: str
    hidden: _Hidden

    def outputs(self, given: Call, claim: Claim) -> list[torch.Tensor]:
        """The layer's outputs in the claimed calls; each run starts from the same state."""
        layer = claim.field.layer
        wanted = {one.call: one for one in claim.watched}
        found: dict[int, torch.Tensor] = {}
        calls = 0

        def keep(result: Returned) -> None:
            nonlocal calls
            if calls in wanted:
                found[calls] = tensors_in(result)[wanted[calls].output].detach().clone()
            calls += 1
            if len(found) == len(wanted):
                raise _Reached

        with Untouched(self.tree) as state, self.hidden, ExitStack() as watch:
            for _, kind, _, tensor in state_of(self.tree):
                if kind == "buffer":
                    state.keep(tensor.untyped_storage())
            if claim.op is None:
                self.model.get_submodule(layer).register_forward_hook(lambda *call: keep(call[-1]))
            else:
                watch.enter_context(_Operation(claim.op, keep))
            try:
                self.model(*given[0], **given[1])
            except _Reached:
                pass
            except Exception as error:
                if len(found) < len(wanted):  # else TorchScript has wrapped our own exception
                    raise ModelError(
                        f"{self.name}: cannot run in float64 to verify the field: {type(error).__name__}: "
                        f"{said_by(error)}"
                    ) from error
        if len(found) < len(wanted):
            raise ModelError(
                f"{self.name}: {layer!r} was called in the traced pass, but not in the verifying one"
            )
        for call, tensor in found.items():
            if tensor.shape != wanted[call].shape:
                raise ModelError(
                    f"{self.name}: {layer!r} returned {tuple(tensor.shape)} when the field was verified, but "
                    f"{wanted[call].shape} when it was traced; pass the inputs that it was traced with"
                )
        return list(found.values())


_JOINS = {"aten.mm", "aten.bmm", "aten.baddbmm", "aten.addmm", "aten.mul", "aten.add", "aten.sub"}


class _Hidden(TorchDispatchMode):
    """A dispatch mode that detects a computed zero multiplied by NaN, or a masked score that is NaN.

    Zeros among the parameters do not count: the architecture is verified, not the weights.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.weights = {p.untyped_storage()._cdata for p in model.parameters()}
        self.met = False

    def __torch_dispatch__(
        self, func: OpOverload, types: Sequence[type], args: Args = (), kwargs: Kwargs | None = None
    ) -> Returned:
        if not self.met:
            self.met = self._hides(str(func).rpartition(".")[0].rstrip("_"), args, kwargs or {})
        result: Returned = func(*args, **(kwargs or {}))
        return result

    def _hides(self, base: str, args: Args, options: Kwargs) -> bool:
        if "attention" in base:
            given = (*args[3:], *options.values())
            masked = any(value is True or isinstance(value, torch.Tensor) for value in given)
            return masked and any(bool(x.isnan().any()) for x in args[:3])
        if base not in _JOINS:
            return False
        operands = [x for x in args if isinstance(x, torch.Tensor) and x.is_floating_point()]
        if len(operands) < 2 or any(x.untyped_storage()._cdata in self.weights for x in operands[-2:]):
            return False
        *added, one, other = operands
        if base in ("aten.add", "aten.sub"):
            return _masks(one, other) or _masks(other if base == "aten.add" else -other, one)
        multiply = torch.mul if base == "aten.mul" else torch.matmul
        lost = multiply(_is(one == 0), _is(other.isnan())) + multiply(_is(one.isnan()), _is(other == 0))
        return bool(lost.any()) or any(_masks(x, multiply(one, other)) for x in added)


def _masks(scores: torch.Tensor, other: torch.Tensor) -> bool:
    return bool(((scores <= LOW) & other.isnan()).any())


def _is(found: torch.Tensor) -> torch.Tensor:
    return found.double()


class _Operation(TorchDispatchMode):
    """A dispatch mode that passes the result of each call of an operator to ``keep``."""

    def __init__(self, name: str, keep: Callable[[Returned], None]) -> None:
        super().__init__()
        self.name = name
        self.keep = keep

    def __torch_dispatch__(
        self, func: OpOverload, types: Sequence[type], args: Args = (), kwargs: Kwargs | None = None
    ) -> Returned:
        result: Returned = func(*args, **(kwargs or {}))
        if str(func) == self.name:
            self.keep(result)
        return result
