"""Mean and covariance of what a convolution looks at: the patches of its input under its kernel."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import inf, prod
from typing import Any

import torch
from torch import Tensor, nn

from archcost.errors import RewriteError
from archcost.progress import Progress
from archcost.weights.features import again, batches_in, layer_of, patches, running, space_of, spaced
from archcost.weights.sums import Sums

__all__ = ["LIMIT", "Moments", "collect", "covariance_bytes"]

LIMIT = 2**30
"""Bytes of covariances that are held at once, by default."""
_LEAST, _EACH = 4096, 8
"""Patches that are enough: so many, and so many times as many as a patch has values."""


@dataclass(frozen=True, eq=False)
class Moments:
    """Of the patches of one layer, in float64; D = in_channels / groups * taps, ordered as in its weight."""

    count: int
    """Patches seen."""
    shape: tuple[int, ...]
    """(in_channels / groups, *kernel_size)."""
    mean: Tensor
    """(groups, D)."""
    covariance: Tensor
    """(groups, D, D), about the mean: the bias of the last stage takes care of that."""
    low: Tensor | None = None
    """(groups, in_channels / groups): the least value of each channel, padding included."""
    high: Tensor | None = None
    """And the largest."""

    @property
    def second(self) -> Tensor:
        """(groups, D, D): the second moment about zero, for a layer without a bias."""
        return self.covariance + self.mean[:, :, None] * self.mean[:, None, :]

    def marginal(self, axes: Sequence[int]) -> Tensor:
        """The covariance along some axes of ``shape``, averaged over the others: (groups, d, d).

        ``(0,)`` is that of the channels, ``(0, 1)`` that of channels and rows of taps, in that order.
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
    """Of the covariance of a layer's patches, in float64: 8 groups (in_channels / groups * taps)^2."""
    weight: Any = layer.weight
    groups: Any = layer.groups
    return 8 * groups * prod(weight.shape[1:]) ** 2


def collect(
    model: nn.Module,
    names: Iterable[str],
    batches: Iterable[Any],
    *,
    progress: bool | None = None,
    limit: int = LIMIT,
) -> dict[str, Moments]:
    """The moments of several layers by name, from passes in eval mode without gradients.

    Layers share a pass as long as their covariances fit into ``limit``; sums are in float64, products too
    where patches are small. Where there are far more patches than needed (8 times the values of a patch),
    they are taken at even distances, the same ones in each run. Between two layers the model is as it was.
    A pass ends with the last of its layers, called as often as for the first batch; where the batches do not
    say how many they are, a pass over them ends when there are patches enough.

    Args:
        names: of convolutions that are not transposed.
        batches: each as the model takes its inputs: a tuple is positional arguments, a dict is keyword
            arguments, anything else the one argument. What can be gone through only once does for a single
            pass.
        progress: draw a progress bar on stderr; by default on a terminal.
        limit: bytes.

    Raises:
        RewriteError: a name is unknown, the layer is no convolution that is known, is transposed, was not
            called, or its covariance alone is above the limit; or the model's own forward fails.
        InputError: there are no batches, or they can be gone through only once and more passes are needed.
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
                    calls = run(batch, calls)  # nothing is needed of what follows the last of these layers
                    bar.step()
                    if length is None and all(one.full for one in sums.values()):
                        break
            for name, layer in group.items():
                found[name] = sums[layer].moments()
    return found


def _passes(layers: dict[str, nn.Module], limit: int) -> list[dict[str, nn.Module]]:
    """The layers of each pass: in order, and as many as fit."""
    groups: list[dict[str, nn.Module]] = []
    held: dict[nn.Module, int] = {}
    for name, layer in layers.items():
        if getattr(layer, "transposed", None) is not False:
            kind = type(layer).__name__
            raise RewriteError(f"{name} ({kind}): moments are those of an ordinary convolution's patches")
        size = covariance_bytes(layer)
        if size > limit:
            raise RewriteError(
                f"{name}: the covariance of its patches takes {size / 2**20:.0f} MiB, more than the limit of "
                f"{limit / 2**20:.0f} MiB: leave it out, or give a larger limit"
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
        """Whether there are patches enough."""
        return self.sums is not None and self.sums.count >= self.most

    def add(self, x: Tensor, output: Any) -> None:
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
            raise RewriteError(f"{self.name}: its input has values that are not finite with these batches")
        weight: Any = self.layer.weight
        split = (len(mean), -1)
        shape = tuple(weight.shape[1:])
        return Moments(
            self.sums.count, shape, mean, covariance, self.low.reshape(split), self.high.reshape(split)
        )
