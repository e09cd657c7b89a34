"""The last stage of every new layer fitted to what the old layer gives, from what now flows into it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from archcost.errors import RewriteError
from archcost.nn import adapters
from archcost.nn.like import ConvLike
from archcost.progress import Progress
from archcost.weights.features import Runner, again, batches_in, layer_of, patches, running, space_of, spaced
from archcost.weights.fitting import Correction, Normal

__all__ = ["Refit", "refit"]

RIDGES = (1e-6, 1e-4, 1e-2)
_HELD = 2**28
"""Bytes of targets of several layers, held at once to share a pass over the original."""
_LEAST, _EACH, _ASIDE = 8192, 8, 4096
"""Positions to fit on: so many, and so many times the values of a patch; and at most so many kept aside."""


@dataclass(frozen=True)
class Refit:
    """What became of one layer. Errors are ||new - original|| / ||original|| of its output, Frobenius, at
    positions that were kept aside."""

    before: float
    after: float
    positions: int
    """Of the output that it was fitted on."""
    kept: str
    """What changed: "weights", with the bias if there is one; "bias"; or "nothing", where neither helped."""
    note: str = ""
    """Why the weights could not be fitted, in words; empty where they could."""


def refit(
    original: nn.Module,
    rewritten: nn.Module,
    names: Iterable[str],
    batches: Iterable[Any],
    *,
    ridge: float | Sequence[float] | None = None,
    progress: bool | None = None,
) -> dict[str, Refit]:
    """Correction the last convolution of each new layer by least squares, in the order in which they run::

        minimise ||y - (w z + b)||^2 + r ||w - w0||^2

    over its weight w and bias b, w0 as it is; z are the patches of its input in ``rewritten``, where the
    layers before it have been fitted already, and y is what the layer gives in ``original``. So each layer
    mends what those before it have lost. Every fourth input (of few, every fourth position) is kept aside:
    what makes the error smallest there is taken, the fit, the mean of the error put into the bias, or
    nothing. No labels, no gradients, no statistics of batch normalisation are touched.

    In eval mode. Of ``original`` nothing changes, of ``rewritten`` only the weights; memory is that of one
    layer, and of the targets of those that share a pass over the original (of a list or tuple of batches),
    256 MiB. Positions are taken at even distances, the same ones in each run, where there are far more than
    8 times the values of a patch.

    Args:
        names: of the layers, the same in both models; in ``rewritten`` a convolution or a ``Sequential`` that
            ends in one.
        batches: each as the models take their inputs; gone through once a layer and more, so a list or a
            ``DataLoader`` in a fixed order, not a generator.
        ridge: r, as a part of the mean of the diagonal of z z'; of several the one with the smallest error
            aside. By default 1e-6, 1e-4 and 1e-2.

    Raises:
        RewriteError: a name is unknown, its layer was not called or ends in no convolution, outputs have
            other shapes than in the original, or a model's own forward fails.
        InputError: there are no batches, or they can be gone through only once.
    """
    ridges = RIDGES if ridge is None else (ridge,) if isinstance(ridge, (int, float)) else tuple(ridge)
    olds = {name: layer_of(original, name) for name in dict.fromkeys(names)}
    lasts = {name: _last_of(name, layer_of(rewritten, name)) for name in olds}
    passes = 1 + len(olds)
    if not olds:
        return {}
    calls = _calls(original, olds, batches, passes)
    found: dict[str, Refit] = {}
    length = batches_in(batches)
    # Another order of the batches in each pass would pair an image with the targets of another.
    fixed = isinstance(batches, (list, tuple))
    with Progress(len(calls) * (length or 1), "refit", progress) as bar:
        for group in _shared(calls, lasts) if fixed else [[name] for name in calls]:
            pairs = {name: _Pair(name, lasts[name], calls[name], length) for name in group}
            ready = _targets(original, olds, pairs, batches) if len(group) > 1 else None
            for name, pair in pairs.items():
                with (
                    running(original, {olds[name]: pair.target}) as old,
                    running(rewritten, {lasts[name]: pair.result}, "rewritten") as new,
                ):
                    for index, batch in enumerate(again(batches, passes)):
                        if ready is None:
                            pair.wanted.clear()
                            old(batch, pair.calls)
                        else:
                            pair.wanted = ready[name][index]
                        pair.run(batch, new)
                        bar.step(label=f"refit: {name}")
                found[name] = _accepted(pair, ridges)
                if ready is not None:
                    del ready[name]
    return found


def mean_shift(
    original: nn.Module,
    rewritten: nn.Module,
    names: Iterable[str],
    batches: Iterable[Any],
    *,
    progress: bool | None = None,
) -> dict[str, Refit]:
    """As `refit`, for the biases alone: the mean error of each channel is taken off."""
    return refit(original, rewritten, names, batches, ridge=(), progress=progress)


def _shared(calls: Iterable[str], lasts: dict[str, nn.Module]) -> list[list[str]]:
    """The names in groups whose targets, at the positions taken, may be held together."""
    groups: list[list[str]] = []
    held = 0.0
    for name in calls:
        weight: Any = lasts[name].weight
        outs: Any = lasts[name].out_channels
        size = 2 * max(_LEAST, _EACH * prod(weight.shape[1:])) * outs * weight.element_size()
        if not groups or held + size > _HELD:
            groups.append([])
            held = 0.0
        groups[-1].append(name)
        held += size
    return groups


def _targets(
    model: nn.Module, layers: dict[str, nn.Module], pairs: dict[str, _Pair], batches: Iterable[Any]
) -> dict[str, list[list[_Target]]]:
    """What the layers of a group give, batch by batch and call by call, from one pass over the original."""
    found: dict[str, list[list[_Target]]] = {name: [] for name in pairs}
    with running(model, {layers[name]: pair.target for name, pair in pairs.items()}) as run:
        calls = sum(pair.calls for pair in pairs.values())
        for batch in again(batches, 2):
            run(batch, calls)
            for name, pair in pairs.items():
                found[name].append(pair.wanted)
                pair.wanted = []
    return found


def _calls(
    model: nn.Module, layers: dict[str, nn.Module], batches: Iterable[Any], passes: int
) -> dict[str, int]:
    """The names in the order in which their layers first run, and how often a pass calls each."""
    order: list[nn.Module] = []

    def tap(layer: nn.Module) -> Callable[[Tensor, Any], None]:
        return lambda x, y: order.append(layer)

    with running(model, {layer: tap(layer) for layer in layers.values()}) as run:
        run(next(again(batches, passes)))
    silent = [name for name, layer in layers.items() if layer not in order]
    if silent:
        raise RewriteError(f"{silent[0]}: it is not called with these batches")
    names = {layer: name for name, layer in reversed(layers.items())}
    return {names[layer]: order.count(layer) for layer in dict.fromkeys(order)}


class _Target(NamedTuple):
    """What a call of the original layer gave."""

    shape: tuple[int, ...]
    picked: Tensor
    """Positions, of the batch's flattened images and maps."""
    rows: Tensor
    """(positions, out), a copy: what comes behind may write into the output."""


def _rows(y: Tensor, picked: Tensor) -> Tensor:
    """(positions, out) of (N, out, *size)."""
    flat = y.flatten(2)
    return flat[picked // flat.shape[2], :, picked % flat.shape[2]]


class _Pair:
    """One layer in both models: what it gave and what it gives, as sums and as what is kept aside."""

    def __init__(self, name: str, layer: nn.Module, calls: int, length: int | None) -> None:
        self.name, self.layer, self.calls, self.length = name, layer, calls, length
        transposed = bool(layer.transposed)
        self.note = "the last stage is transposed: only its bias is fitted" if transposed else ""
        self.weights = not transposed
        self.normal = Normal(self.weights, layer.bias is not None)
        self.wanted: list[_Target] = []
        self.stride = 0
        self.seen = 0
        self.aside_by_position = False

    def run(self, batch: Any, new: Runner) -> None:
        """The new layer's part of a batch, where the old one's is there."""
        if not self.wanted:
            return
        new(batch, len(self.wanted))
        if self.wanted:
            raise RewriteError(f"{self.name}: it is called less often in the rewritten model")

    def target(self, x: Tensor, y: Any) -> None:
        if not isinstance(y, Tensor):
            raise RewriteError(f"{self.name}: it gives a {type(y).__name__}, not a tensor")
        axes = len(self.layer.kernel_size)  # type: ignore[arg-type]
        whole = y.detach()[None] if y.dim() == axes + 1 else y.detach()
        size = tuple(whole.shape[2:])
        positions = len(whole) * prod(size)
        if not self.stride:
            self.aside_by_position = len(whole) * (self.length or 16) < 8
            weight: Any = self.layer.weight
            values = prod(weight.shape[1:]) if self.weights else 1
            most = max(_LEAST, _EACH * values) / (self.length or 16)
            self.stride = spaced(positions, most, size)
        picked = torch.arange(0, positions, self.stride, device=y.device)
        self.wanted.append(_Target(tuple(y.shape), picked, _rows(whole, picked)))

    def result(self, x: Tensor, y: Tensor) -> None:
        wanted = self.wanted.pop(0)
        if wanted.shape != y.shape:
            raise RewriteError(
                f"{self.name}: the last convolution of its chain gives {tuple(y.shape)}, the original "
                f"{wanted.shape}"
            )
        x, spec = space_of(self.layer, x)
        pixels = prod(spec.output_size)
        picked = wanted.picked
        images = picked // pixels + self.seen
        self.seen += len(x)
        index = torch.arange(len(picked), device=x.device) if self.aside_by_position else images
        aside = index % 4 == 3
        rows = patches(x, spec, picked) if self.weights else x.new_zeros(spec.groups, len(picked), 0)
        was, now = wanted.rows, _rows(y.detach().reshape(len(x), -1, *spec.output_size), picked)
        room = max(0, _ASIDE // (self.length or 16)) or 1
        self.normal.add(rows[:, ~aside], (was - now)[~aside])
        kept = aside.nonzero().flatten()
        kept = kept[:: max(1, -(-len(kept) // room))]
        self.normal.keep(rows[:, kept], was[kept], now[kept])


def _accepted(pair: _Pair, ridges: tuple[float, ...]) -> Refit:
    """The best of what was tried, put into the layer."""
    normal = pair.normal
    if not normal.count:
        raise RewriteError(f"{pair.name}: there are too few positions of its output to fit anything to")
    before = normal.error(None)
    best: Correction | None = None
    after, kept = before, "nothing"
    fits = [("bias", normal.shift())] if pair.layer.bias is not None else []
    fits += [("weights", normal.fit(ridge)) for ridge in ridges if pair.weights]
    for what, fit in fits:
        error = normal.error(fit)
        if error < after:
            best, after, kept = fit, error, what
    if best is not None:
        _add(pair.layer, best)
    return Refit(before, after, normal.count, kept, pair.note)


def _add(layer: nn.Module, fit: Correction) -> None:
    weight: Any = layer.weight
    bias: Any = layer.bias
    with torch.no_grad():
        if fit.weight is not None:
            weight.copy_(weight.double().cpu() + fit.weight.reshape(weight.shape))
        if fit.bias is not None and bias is not None:
            bias.copy_(bias.double().cpu() + fit.bias)
    if isinstance(layer, ConvLike):
        layer.forget()


def _is_conv(module: nn.Module) -> bool:
    return isinstance(module, ConvLike) or adapters.known(module)


def _last_of(name: str, module: nn.Module) -> nn.Module:
    last = module
    while isinstance(last, nn.Sequential) and len(last):
        last = last[-1]
    if not _is_conv(last):
        raise RewriteError(f"{name}: what stands there ends in a {type(last).__name__}, not a convolution")
    return last
