"""Mean and covariance of the patches of a convolution's input, over calibration data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import inf, prod

import torch
from torch import Tensor, nn

from archcost.errors import RewriteError
from archcost.progress import Progress
from archcost.weights.features import (
    Batches,
    again,
    batches_in,
    layer_of,
    like_of,
    patches,
    running,
    space_of,
    spaced,
    weight_of,
)
from archcost.weights.sums import Sums

__all__ = ["LIMIT", "Moments", "collect", "covariance_bytes"]

LIMIT = 2**30
"""Default limit of the bytes of covariances held at once."""
_LEAST, _EACH = 4096, 8
"""Enough patches: at least the first, and the second times the number of values of a patch."""


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean and covariance of a layer's input patches, in float64.

    A patch has D = in_channels / groups * taps values, ordered as in the layer's weight.
    """

    count: int
    """Number of patches."""
    shape: tuple[int, ...]
    """Shape of a patch, (in_channels / groups, *kernel_size)."""
    mean: Tensor
    """Mean patch, (groups, D)."""
    covariance: Tensor
    """Covariance about the mean, (groups, D, D); the bias of the last stage corrects the mean."""
    low: Tensor | None = None
    """Smallest value of each channel with padding, (groups, in_channels / groups)."""
    high: Tensor | None = None
    """Largest value of each channel with padding, (groups, in_channels / groups)."""

    @property
    def second(self) -> Tensor:
        """Second moment about zero, (groups, D, D), for a layer without bias."""
        return self.covariance + self.mean[:, :, None] * self.mean[:, None, :]

    def marginal(self, axes: Sequence[int]) -> Tensor:
        """Marginal covariance over some axes of ``shape``, averaged over the others: (groups, d, d).

        Axes ``(0,)`` are the channels, ``(0, 1)`` channels and rows of taps, in that order.
        """
        groups, rank = len(self.covariance), len(self.shape)
        others = [axis for axis in range(rank) if axis not in axes]
        full = self.covariance.reshape(groups, *self.shape, *self.shape)
        order = [0, *(1 + a for a in axes), *(1 + rank + a for a in axes)]
        order += [1 + a for a in others] + [1 + rank + a for a in others]
        size, rest = prod(self.shape[a] for a in axes), prod(self.shape[a] for a in others)
        parts = full.permute(order).reshape(groups, size, size, rest, rest)
        return parts.diagonal(dim1=3, dim2=4).mean(-1)


def covariance_bytes(layer: nn.Module) -> int:
    """Bytes of the covariance of a layer's patches: 8 groups (in_channels / groups * taps)^2."""
    return 8 * like_of(layer).groups * prod(weight_of(layer).shape[1:]) ** 2


def collect(
    model: nn.Module,
    names: Iterable[str],
    batches: Batches,
    *,
    progress: bool | None = None,
    limit: int = LIMIT,
) -> dict[str, Moments]:
    """Moments of several layers by name, from forward passes in eval mode without gradients.

    Layers share a pass as long as their covariances fit into ``limit``. Sums are in float64, products too
    where patches are small. Where there are far more patches than needed (8 times the values of a patch),
    they are sampled at even distances, the same in each run. A pass ends behind the last of its layers; the
    pass over batches of unknown number ends when there are enough patches. The model ends unchanged.

    Args:
        names: names of convolutions that are not transposed.
        batches: calibration data, each batch as the model takes its inputs: a tuple is positional arguments,
            a dict keyword arguments, anything else a single argument. An iterator is enough for a single
            pass.
        progress: draw a progress bar on stderr; by default on a terminal.
        limit: most bytes of covariances held at once.

    Raises:
        RewriteError: a name is unknown; a layer is not a known convolution, is transposed, is not called, or
            its covariance alone is above the limit; or the model's forward fails.
        InputError: there are no batches, or an iterator and more than a pass is needed.
    """
    layers = {name: layer_of(model, name) for name in names}
    groups = _passes(layers, limit)
    length = batches_in(batches)
    found: dict[str, Moments] = {}
    with Progress(len(groups) * (length or 1), "moments", progress) as bar:
        for group in groups:
            sums: dict[nn.Module, _PatchSums] = {}
            for name, layer in group.items():
                sums.setdefault(layer, _PatchSums(name, layer, length))
            with running(model, {layer: one.add for layer, one in sums.items()}) as run:
                calls: int | None = None
                for batch in again(batches, len(groups)):
                    calls = run(batch, calls)  # what follows the last of these layers is not needed
                    bar.step()
                    if length is None and all(one.full for one in sums.values()):
                        break
            for name, layer in group.items():
                found[name] = sums[layer].moments()
    return found


def _passes(layers: dict[str, nn.Module], limit: int) -> list[dict[str, nn.Module]]:
    """The layers of each pass, in order, as many as fit."""
    groups: list[dict[str, nn.Module]] = []
    held: dict[nn.Module, int] = {}
    for name, layer in layers.items():
        if not isinstance(layer, nn.Linear) and getattr(layer, "transposed", None) is not False:
            kind = type(layer).__name__
            raise RewriteError(f"{name} ({kind}): only convolutions that are not transposed have moments")
        size = covariance_bytes(layer)
        if size > limit:
            raise RewriteError(
                f"{name}: the covariance of its patches takes {size / 2**20:.0f} MiB, more than the limit of "
                f"{limit / 2**20:.0f} MiB: leave the layer out, or give a larger limit"
            )
        if not groups or sum(held.values()) + (layer not in held) * size > limit:
            groups.append({})
            held = {}
        groups[-1][name] = layer
        held[layer] = size
    return groups


class _PatchSums:
    """Sums over the patches of one layer, call by call."""

    def __init__(self, name: str, layer: nn.Module, length: int | None) -> None:
        self.name, self.layer, self.length = name, layer, length
        self.sums: Sums | None = None
        self.low: Tensor | None = None
        self.high: Tensor | None = None
        self.stride = 0
        self.most = inf

    @property
    def full(self) -> bool:
        """Whether there are enough patches."""
        return self.sums is not None and self.sums.count >= self.most

    def add(self, x: Tensor, _: Tensor) -> None:
        x, spec = space_of(self.layer, x)
        positions = len(x) * prod(spec.output_size)
        values = spec.in_channels // spec.groups * prod(spec.kernel_size)
        if not self.stride:
            self.most = max(_LEAST, _EACH * values)
            self.stride = spaced(positions, self.most / (self.length or 16), spec.output_size)
        if self.sums is None:
            self.sums = Sums(spec.groups, values)
        found = patches(x, spec, torch.arange(0, positions, self.stride, device=x.device))
        self.sums.add(found)
        self._range(x, spec.padding_mode == "zeros" and any(map(any, spec.padding)))

    def _range(self, x: Tensor, padded: bool) -> None:
        low, high = torch.aminmax(x.detach().transpose(0, 1).flatten(1).to("cpu", torch.float64), dim=1)
        if padded:
            low, high = low.clamp_max(0), high.clamp_min(0)
        self.low = low if self.low is None else torch.minimum(low, self.low)
        self.high = high if self.high is None else torch.maximum(high, self.high)

    def moments(self) -> Moments:
        if self.sums is None or self.low is None or self.high is None:
            raise RewriteError(f"{self.name}: it is not called with these batches")
        mean, covariance = self.sums.result()
        if not (mean.isfinite().all() and covariance.isfinite().all()):
            raise RewriteError(f"{self.name}: its input has infinite or NaN values with these batches")
        split = (len(mean), -1)
        shape = tuple(weight_of(self.layer).shape[1:])
        return Moments(
            self.sums.count, shape, mean, covariance, self.low.reshape(split), self.high.reshape(split)
        )
