"""The statistics of a layer's input patches: their covariance or, where it is too large, sampled patches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn

from archcost.errors import RewriteError
from archcost.progress import Progress
from archcost.weights.features import (
    Batches,
    again,
    batches_in,
    patches,
    running,
    space_of,
    spaced,
    weight_of,
)
from archcost.weights.moments import Moments, collect, covariance_bytes

__all__ = ["CEILING", "Sampled", "Statistics", "collected", "in_parts"]

CEILING = 2**29
"""Most bytes of statistics held at once, by default."""
_ROWS = 4096


@dataclass(frozen=True, eq=False)
class Sampled:
    """Patches of a layer's input, sampled at even distances: a covariance of their number's rank."""

    count: int
    shape: tuple[int, ...]
    """Shape of a patch, (in_channels / groups, *kernel_size)."""
    mean: Tensor
    """(groups, D)."""
    rows: Tensor
    """The patches about their mean, (groups, n, D), in float32."""

    def through(self, matrix: Tensor) -> Tensor:
        """M C M' for matrices (groups, m, D)."""
        seen = self.rows.to(matrix.dtype) @ matrix.mT
        return seen.mT @ seen / self.rows.shape[1]

    def marginal(self, axes: Sequence[int]) -> Tensor:
        """The covariance over some axes of ``shape``, averaged over the others, (groups, d, d)."""
        groups, n = self.rows.shape[:2]
        others = [axis for axis in range(len(self.shape)) if axis not in axes]
        order = (0, *(2 + axis for axis in axes), 1, *(2 + axis for axis in others))
        size = prod(self.shape[axis] for axis in axes)
        flat = self.rows.reshape(groups, n, *self.shape).permute(order).reshape(groups, size, -1)
        return (flat @ flat.mT).double() / flat.shape[2]


@dataclass(frozen=True, eq=False)
class Whole:
    """The covariance of a layer's patches."""

    moments: Moments

    def through(self, matrix: Tensor) -> Tensor:
        """M C M' for matrices (groups, m, D)."""
        return matrix @ self.moments.covariance.to(matrix.dtype) @ matrix.mT

    def marginal(self, axes: Sequence[int]) -> Tensor:
        """The covariance over some axes of the patch, averaged over the others, (groups, d, d)."""
        return self.moments.marginal(tuple(axes))

    @property
    def mean(self) -> Tensor:
        return self.moments.mean

    @property
    def count(self) -> int:
        return self.moments.count


Statistics = Whole | Sampled


def in_parts(layers: Mapping[str, nn.Module], ceiling: int = CEILING) -> list[list[str]]:
    """The names in groups whose statistics fit under the ceiling together: a pass over the data each."""
    parts: list[list[str]] = []
    held = 0
    for name, layer in layers.items():
        size = min(covariance_bytes(layer), ceiling // 2)
        if not parts or held + size > ceiling:
            parts.append([])
            held = 0
        parts[-1].append(name)
        held += size
    return parts


def collected(
    model: nn.Module,
    names: Iterable[str],
    batches: Batches,
    *,
    ceiling: int = CEILING,
    progress: bool | None = None,
) -> dict[str, Statistics]:
    """The statistics of some layers' inputs from one pass, or two where a covariance is above half the
    ceiling: patches are sampled there."""
    layers = {name: model.get_submodule(name) for name in names}
    whole = [name for name, layer in layers.items() if covariance_bytes(layer) <= ceiling // 2]
    found: dict[str, Statistics] = {}
    if whole:
        made = collect(model, whole, batches, progress=progress, limit=2 * ceiling)
        found |= {name: Whole(one) for name, one in made.items()}
    large = {name: layer for name, layer in layers.items() if name not in found}
    if large:
        found |= _sampled(model, large, batches, ceiling // (2 * len(large)), progress)
    return found


def _sampled(
    model: nn.Module, layers: Mapping[str, nn.Module], batches: Batches, room: int, progress: bool | None
) -> dict[str, Statistics]:
    length = batches_in(batches) or 16
    kept: dict[str, list[Tensor]] = {name: [] for name in layers}

    def tap(name: str, layer: nn.Module):  # type: ignore[no-untyped-def]
        values = weight_of(layer)[0].numel()
        most = max(64, min(_ROWS, room // (4 * values)))

        def add(x: Tensor, _: Tensor) -> None:
            whole, spec = space_of(layer, x)
            positions = len(whole) * prod(spec.output_size)
            step = spaced(positions, most / length, spec.output_size)
            if sum(map(len, kept[name])) < 2 * most:
                rows = patches(whole, spec, torch.arange(0, positions, step, device=x.device))
                kept[name].append(rows.transpose(0, 1).float().cpu())

        return add

    with (
        Progress(length, "patches", progress) as bar,
        running(model, {layer: tap(name, layer) for name, layer in layers.items()}) as run,
    ):
        for batch in again(batches, 1):
            run(batch)
            bar.step()
    found: dict[str, Statistics] = {}
    for name, parts in kept.items():
        if not parts:
            raise RewriteError(f"{name}: it is not called with these batches")
        rows = torch.cat(parts).transpose(0, 1)
        mean = rows.mean(1, dtype=torch.float64)
        shape = tuple(weight_of(layers[name]).shape[1:])
        found[name] = Sampled(rows.shape[1], shape, mean, rows - mean[:, None].float())
    return found
