"""The effective receptive field: the gradient of a position of a layer with respect to each input pixel."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import nn

from archcost.errors import InputError, ModelError, SpecError
from archcost.fields.field import ReceptiveField, Window
from archcost.fields.witness import Claim
from archcost.report.document import Asked, Column, Document, Table, ordered
from archcost.report.result import Result
from archcost.report.values import Json
from archcost.trace.call import Call
from archcost.trace.inputs import Inputs, map_tensors, tensors_in
from archcost.trace.modules import is_training, walk
from archcost.trace.state import Untouched

__all__ = ["EffectiveField", "measure"]

_HALF = (torch.float16, torch.bfloat16)
# A gradient smaller than this part of that with random signs of the channels is rounding.
_CANCELLED = 1e-4


@dataclass(frozen=True, kw_only=True, eq=False)
class EffectiveField(Result):
    """The effective receptive field of an output position: its gradient at each pixel (Luo et al. 2016)."""

    map: np.ndarray
    """The mean absolute gradient of each pixel, in the input's spatial shape."""
    theoretical: ReceptiveField
    """The theoretical receptive field, with layer, position and window."""
    samples: int
    """The number of input samples in the mean."""
    share: float
    """The share of the gradient that ``side`` and ``window`` hold."""
    signs: bool = False
    """Whether the channels of the layer were summed with random signs."""

    @property
    def side(self) -> int:
        """Side in pixels of the smallest square (interval, cube) that holds ``share`` of the gradient."""
        return self.side_holding(self.share)

    @property
    def ratio(self) -> tuple[float, ...]:
        """The part of the theoretical window that the square covers, per axis; at most 1."""
        size = self._bounds.size
        return tuple(min(self.side, n) / n for n in size)

    @property
    def window(self) -> tuple[Window, ...]:
        """First and last pixel of the square, per axis; it may extend beyond the image."""
        reach = self.side - 1
        return tuple(((both - reach + 1) // 2, (both + reach) // 2) for both in self._twice_centre)

    def side_holding(self, share: float) -> int:
        """Side in pixels of the smallest square that holds ``share`` of the gradient.

        The square is centred on the theoretical window, unclipped; the part of it outside the image counts
        in the side.

        Args:
            share: above 0, at most 1.

        Raises:
            SpecError: ``share`` is out of range.
        """
        check_share(share)
        away = np.zeros((1,) * self.map.ndim, dtype=np.int64)
        for axis, (n, both) in enumerate(zip(self.map.shape, self._twice_centre, strict=True)):
            shape = [1] * self.map.ndim
            shape[axis] = n
            away = np.maximum(away, np.abs(2 * np.arange(n) - both).reshape(shape))
        held = np.cumsum(np.bincount(away.ravel(), weights=self.map.ravel()))
        return int(np.searchsorted(held, share * held[-1] * (1 - 1e-12))) + 1

    @property
    def _bounds(self) -> ReceptiveField:
        """The local field, or the whole one where the local field is empty."""
        local = self.theoretical.local
        return local if all(local.size) else self.theoretical

    @property
    def _twice_centre(self) -> tuple[int, ...]:
        return tuple(lo + hi for lo, hi in self._bounds.unclipped)

    def document(self, asked: Asked) -> Document:
        """The field as a Document: a row per pixel; JSON also has the window and the theoretical field."""
        asked.without_depth("an effective field")
        columns = self._columns()
        rows = partial(ordered, list(np.ndenumerate(self.map)), columns, asked, "gradient")
        pixels = Table("pixels", columns, rows)
        first, *lines = self.lines()
        return Document("archcost.effective/1", [(first, "")], [pixels], [], self._record, lines)

    def _columns(self) -> list[Column]:
        axes = [
            Column(f"axis_{i}", f"Axis {i}", f"Index of the pixel along axis {i}", partial(_index, i))
            for i in range(self.map.ndim)
        ]
        meaning = "Mean absolute gradient, summed over the input's channels"
        return [*axes, Column("gradient", "Gradient", meaning, lambda row: float(row[1]), dtype="float64")]

    def _record(self) -> dict[str, Json]:
        names = ("side", "ratio", "window", "share", "samples", "signs")
        return {**{name: getattr(self, name) for name in names}, "theoretical": self.theoretical.record()}

    def lines(self) -> list[str]:
        """The field in words: layer and position, size, number of samples."""
        field = self.theoretical
        shape = {1: "an interval", 2: "a square", 3: "a cube"}[self.map.ndim]
        ratio = " x ".join(dict.fromkeys(f"{r:.0%}" for r in self.ratio))
        size = " x ".join(map(str, self._bounds.size))
        whole = f"; the exact field is the whole input, because of {field.reason}" if field.is_global else ""
        where = ", ".join(map(str, field.position))
        return [
            f"{field.layer or 'the model'}, position {where}",
            f"{self.share:.0%} of the gradient lies in {shape} of side {self.side}: {ratio} of the "
            f"theoretical {size}{whole}",
            f"mean of {self.samples} sample{'s' * (self.samples != 1)}",
        ]


def _index(axis: int, row: tuple[tuple[int, ...], float]) -> int:
    return row[0][axis]


def check_share(share: float) -> None:
    """Raise SpecError for a ``share`` that is not above 0 and at most 1."""
    if not 0 < share <= 1:
        raise SpecError(
            f"effective_field: share is {share!r}; pass a number above 0 and at most 1, such as 0.95"
        )


def measure(
    model: nn.Module,
    passes: list[Call],
    claim: Claim,
    *,
    share: float,
    signs: bool,
    seed: int,
    device: torch.device | str | None = None,
) -> EffectiveField:
    """The mean absolute gradient over calls of a copy of the model; see `archcost.effective_field`.

    Args:
        model: the model; it is copied, and run in eval mode.
        passes: the inputs.
        claim: the layer and position, with their theoretical field.
        share: the share of the gradient that the field's square holds.
        signs: sum the layer's channels with random signs.
        seed: the seed of the random signs.
        device: where the copy runs; by default on the model's device.

    Raises:
        ModelError: the model cannot be copied or run, or there is no finite gradient.
        InputError: the input has an integer dtype.
    """
    field = claim.field
    name = f"{type(model).__name__}, {field.layer or 'the model itself'}"
    total = np.zeros(field.input_size)
    samples = 0
    with _copied(model, device) as twin:
        for number, call in enumerate(passes):
            given, leaf = _prepared(twin, call, field)
            picked = _picked(twin, given, claim, name)
            coin = torch.Generator().manual_seed(seed + number)
            gradient = _gradient(picked, leaf, coin if signs else None, name)
            if not number and not signs:
                _check_not_cancelled(gradient, _gradient(picked, leaf, coin, name), name)
            beside = [d for d in range(leaf.dim()) if d not in claim.dims]
            samples += leaf.shape[0] if len(beside) > 1 and beside[0] == 0 else 1
            total += gradient.abs().double().sum(beside).cpu().numpy() if beside else gradient.abs().numpy()
    if not np.isfinite(total).all():
        raise ModelError(f"{name}: the gradient is not finite; use weights and inputs for which it is")
    if not total.any():
        raise ModelError(
            f"{name}: the gradient of this position is 0 at every pixel; use inputs for which it is not"
        )
    total /= samples
    total.setflags(write=False)
    return EffectiveField(map=total, theoretical=field, samples=samples, share=share, signs=signs)


@contextmanager
def _copied(model: nn.Module, device: torch.device | str | None) -> Iterator[nn.Module]:
    """A copy of the model in eval mode; random states and the model's attributes are restored on leaving."""
    model = getattr(model, "_orig_mod", model)
    kind = type(model).__name__
    tree = walk(model)
    if any(p.is_meta for p in model.parameters()):
        raise ModelError(f"{kind}: the model's weights are on `meta` and have no values; load them first")
    with Untouched(tree), torch.inference_mode(False), torch.enable_grad():
        try:
            with torch.no_grad():  # else the copied weights of a ScriptModule have a grad_fn
                twin = copy.deepcopy(model).to(device)
            for parameter in twin.parameters():  # `Module.requires_grad_` leaves a ScriptModule's out
                parameter.requires_grad_(False)
            if any(is_training(part) for part in twin.modules()):
                twin.eval()
        except Exception as error:
            raise ModelError(
                f"{kind}: the effective field is measured on a copy, and copying failed: {error}"
            ) from error
        if any(p.dtype in _HALF for p in twin.parameters()):
            twin = twin.float()
        yield twin


def _prepared(twin: nn.Module, call: Call, field: ReceptiveField) -> tuple[Call, torch.Tensor]:
    """The call on the copy's device, half precision as float32; and the leaf tensor of the input."""
    home = next(iter([*twin.parameters(), *twin.buffers()]), torch.empty(0)).device
    leaves: list[torch.Tensor] = []

    def prepare(tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor.detach().to(home, torch.float32 if tensor.dtype in _HALF else None, copy=True)
        leaves.append(tensor)
        if len(leaves) - 1 != field.input_index:
            return tensor
        if not (tensor.is_floating_point() or tensor.is_complex()):
            raise InputError(
                f"{type(twin).__name__}: input {field.input_index} has the integer dtype "
                f"{str(tensor.dtype)[6:]}, which has no gradient; measure the part of the model that "
                f"takes the embedding"
            )
        return tensor.requires_grad_().clone()  # a model may write into its input, but not into a leaf

    given = Call(map_tensors(call.args, prepare), map_tensors(call.kwargs, prepare))
    return given, leaves[field.input_index]


class _Reached(Exception):
    """Raised in a hook to end the forward pass once the layer's output is there."""


def _picked(twin: nn.Module, given: Call, claim: Claim, name: str) -> torch.Tensor:
    """The layer's output at the position: all channels of all samples."""
    found: list[torch.Tensor] = []
    calls = 0
    wanted = claim.watched[-1]

    def keep(module: nn.Module, inputs: Inputs, result: Inputs) -> None:
        nonlocal calls
        calls += 1
        if calls == wanted.call + 1:
            found.extend(tensors_in(result))
            raise _Reached

    handle = twin.get_submodule(claim.field.layer).register_forward_hook(keep)
    try:
        twin(*given[0], **given[1])
    except _Reached:
        pass
    except Exception as error:
        raise ModelError(f"{name}: the model's forward fails: {type(error).__name__}: {error}") from error
    finally:
        handle.remove()
    if not found:
        raise ModelError(f"{name}: the layer was called in the traced pass, but not in the measured one")
    index: list[slice | int] = [slice(None)] * found[wanted.output].dim()
    for dim, at in zip(claim.places, claim.field.position, strict=True):
        index[dim] = at
    return found[wanted.output][tuple(index)]


def _gradient(
    picked: torch.Tensor, leaf: torch.Tensor, signs: torch.Generator | None, name: str
) -> torch.Tensor:
    """The gradient of the sum of the channels, with random signs drawn from ``signs`` unless None."""
    weights = torch.ones(picked.shape)
    if signs is not None:
        weights = 1 - 2 * torch.randint(2, picked.shape, generator=signs, dtype=torch.float32)
    gradient = None
    if picked.requires_grad:
        (gradient,) = torch.autograd.grad(
            picked, leaf, weights.to(picked.device, picked.dtype), retain_graph=True, allow_unused=True
        )
    if gradient is None:
        raise ModelError(
            f"{name}: no gradient flows from its output to the input: a layer on the way runs under no_grad, "
            f"detaches, rounds or quantizes; choose a layer before it"
        )
    return gradient


def _check_not_cancelled(plain: torch.Tensor, signed: torch.Tensor, name: str) -> None:
    if float(plain.abs().sum()) < _CANCELLED * float(signed.abs().sum()):
        raise ModelError(
            f"{name}: its channels sum to a constant, as after a norm over the channels, so that the sum has "
            f"no gradient; pass signs=True to sum them with random signs"
        )
