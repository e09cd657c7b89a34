"""Refit: the last stage of each new layer fitted to the old layer's outputs, from its present inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from math import inf, prod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from archcost.errors import RewriteError
from archcost.nn import adapters
from archcost.nn.like import ConvLike
from archcost.progress import Progress
from archcost.trace.call import Inputs
from archcost.weights.activations import Activations
from archcost.weights.features import (
    Batches,
    Runner,
    again,
    as_maps,
    batches_in,
    layer_of,
    like_of,
    patches,
    running,
    space_of,
    spaced,
    weight_of,
)
from archcost.weights.fitting import Correction, Normal

__all__ = ["Refit", "Score", "refit"]

Score = Callable[[nn.Module], float]
RIDGES = (1e-6, 1e-4, 1e-2)
_STIFF = (1e-1, 1.0)
"""Tried too where there are fewer rows than `_FEW` times the values of a patch."""
_FEW = 4
_HELD = 2**28
"""Most bytes of targets held at once by layers that share a pass over the original."""
_LEAST, _EACH, _ASIDE = 8192, 8, 4096
"""Positions to fit on: at least the first, and the second times the values of a patch; most held out."""


@dataclass(frozen=True)
class Refit:
    """The refit of a layer; errors are ||new - original|| / ||original|| of its output on held-out
    positions."""

    before: float
    """Error before the refit."""
    after: float
    """Error after the refit."""
    positions: int
    """Number of output positions that were fitted on."""
    kept: str
    """The accepted change: "weights" (with a bias if there is one), "bias", or "nothing" where neither
    helped."""
    ridge: float | None = None
    """That of the accepted weights."""
    note: str = ""
    """Why the weights could not be fitted; empty where they could."""


def refit(
    original: nn.Module,
    rewritten: nn.Module,
    names: Iterable[str],
    batches: Batches,
    *,
    ridge: float | Sequence[float] | None = None,
    scores: Mapping[str, Score] | None = None,
    repeat: Mapping[str, Refit] | None = None,
    progress: bool | None = None,
) -> dict[str, Refit]:
    """Fit the last convolution of each new layer by ridge regression, in the order of execution::

        minimise ||y - (w z + b)||^2 + r ||w - w0||^2

    over its weight w and bias b, from its present weight w0 (A. Hoerl and R. Kennard, "Ridge Regression:
    Biased Estimation for Nonorthogonal Problems", Technometrics 12, 1970). z are the patches of its input in
    ``rewritten``, where the layers before it are already fitted, and y is the layer's output in ``original``:
    each layer corrects the errors of those before it, as in the asymmetric reconstruction of X. Zhang, J.
    Zou, K. He and J. Sun, "Accelerating Very Deep Convolutional Networks for Classification and Detection"
    (IEEE TPAMI 2016). Every fourth input (every fourth position where there are few) is held out; the change
    with the smallest error there is accepted: the fit, the mean error added to the bias, or none. There are
    no labels and no gradients, and batch normalisation statistics are unchanged.

    Models run in eval mode; only weights of ``rewritten`` change. Memory is that of a layer and,
    with a list or tuple of batches, 256 MiB of targets of layers that share a pass over the original, and
    256 MiB of outputs that layers of ``rewritten`` keep from one pass to the next. Positions are
    sampled at even distances, the same in each run, where there are far more than 8 times the values of a
    patch.

    Args:
        names: names of the layers, the same in both models; in ``rewritten`` a convolution, or a
            ``Sequential`` that ends in a convolution.
        batches: calibration data, each batch as the models take their inputs; passed over at least once for
            each layer, so a list, or a ``DataLoader`` in a fixed order.
        ridge: r, as a share of the mean of the diagonal of z z'; the best on held-out data of several, by
            default of 1e-6, 1e-4 and 1e-2, and of 0.1 and 1 where there are few positions.
        scores: by a layer's name, what decides between its changes in place of its own held-out error:
            smaller is better, with each change made in ``rewritten`` in turn; called with the convolution
            that is changed.
        repeat: by a layer's name, a refit to other batches whose accepted change is made with the same ridge,
            fitted to all inputs: none are held out.
        progress: draw a progress bar on stderr; by default on a terminal.

    Returns:
        The errors before and after of each layer, by name.

    Raises:
        RewriteError: a name is unknown; a layer is not called, does not end in a convolution, or has outputs
            of other shapes than in the original; or a model's forward fails.
        InputError: there are no batches, or they are an iterator.
    """
    ridges = None if ridge is None else (ridge,) if isinstance(ridge, (int, float)) else tuple(ridge)
    olds = {name: layer_of(original, name) for name in dict.fromkeys(names)}
    lasts = {name: _last_of(name, layer_of(rewritten, name)) for name in olds}
    passes = 1 + len(olds)
    if not olds:
        return {}
    calls = _calls(original, olds, batches, passes)
    found: dict[str, Refit] = {}
    before, length = repeat or {}, batches_in(batches)
    kept = None
    if isinstance(batches, (list, tuple)):  # in another order an image would be paired with another's targets
        kept = Activations(rewritten, batches, {lasts[name]: count for name, count in calls.items()})
    with Progress(len(calls) * (length or 1), "refit", progress) as bar:
        for group in _shared(calls, lasts) if kept is not None else [[name] for name in calls]:
            pairs = {name: _Pair(name, lasts[name], calls[name], length, before.get(name)) for name in group}
            ready = _targets(original, olds, pairs, batches) if len(group) > 1 else None
            for name in group:
                pair = pairs.pop(name)  # its sums are large
                with ExitStack() as stack:
                    new = stack.enter_context(running(rewritten, {lasts[name]: pair.result}, "rewritten"))
                    if ready is None:
                        old = stack.enter_context(running(original, {olds[name]: pair.target}))
                    for index, batch in enumerate(again(batches, passes)):
                        if ready is None:
                            pair.wanted.clear()
                            old(batch, pair.calls)
                        wanted = tuple(pair.wanted if ready is None else ready[name][index])
                        forward = partial(pair.run, batch, new, wanted)
                        forward() if kept is None else kept.run(index, lasts[name], forward)
                        bar.step(label=f"refit: {name}")
                found[name] = _accepted(pair, ridges, (scores or {}).get(name))
                if ready is not None:
                    del ready[name]
    return found


def mean_shift(
    original: nn.Module,
    rewritten: nn.Module,
    names: Iterable[str],
    batches: Batches,
    *,
    progress: bool | None = None,
) -> dict[str, Refit]:
    """Like `refit`, for biases alone: subtract the mean error of each channel."""
    return refit(original, rewritten, names, batches, ridge=(), progress=progress)


def _shared(calls: Iterable[str], lasts: dict[str, nn.Module]) -> list[list[str]]:
    """The names in groups whose targets fit into memory together."""
    groups: list[list[str]] = []
    held = 0.0
    for name in calls:
        weight, outs = weight_of(lasts[name]), like_of(lasts[name]).out_channels
        size = 2 * max(_LEAST, _EACH * prod(weight.shape[1:])) * outs * weight.element_size()
        if not groups or held + size > _HELD:
            groups.append([])
            held = 0.0
        groups[-1].append(name)
        held += size
    return groups


def _targets(
    model: nn.Module, layers: dict[str, nn.Module], pairs: dict[str, _Pair], batches: Batches
) -> dict[str, list[list[_Target]]]:
    """Outputs of a group of original layers, by batch and call, from a single pass."""
    found: dict[str, list[list[_Target]]] = {name: [] for name in pairs}
    with running(model, {layers[name]: pair.target for name, pair in pairs.items()}) as run:
        calls = sum(pair.calls for pair in pairs.values())
        for batch in again(batches, 2):
            run(batch, calls)
            for name, pair in pairs.items():
                found[name].append(pair.wanted)
                pair.wanted = []
    return found


def _calls(model: nn.Module, layers: dict[str, nn.Module], batches: Batches, passes: int) -> dict[str, int]:
    """The names in order of execution, and the number of calls of each in a pass."""
    order: list[nn.Module] = []

    def tap(layer: nn.Module) -> Callable[[Tensor, Tensor], None]:
        return lambda x, y: order.append(layer)

    with running(model, {layer: tap(layer) for layer in layers.values()}) as run:
        run(next(again(batches, passes)))
    silent = [name for name, layer in layers.items() if layer not in order]
    if silent:
        raise RewriteError(f"{silent[0]}: it is not called with these batches")
    names = {layer: name for name, layer in reversed(layers.items())}
    return {names[layer]: order.count(layer) for layer in dict.fromkeys(order)}


class _Target(NamedTuple):
    """The output of a call of the original layer."""

    shape: tuple[int, ...]
    picked: Tensor
    """Sampled positions in the flattened images and maps of the batch."""
    rows: Tensor
    """Outputs there, (positions, out); a copy, as later layers may overwrite the output."""


def _rows(y: Tensor, picked: Tensor) -> Tensor:
    """The rows (positions, out) of an output (N, out, *size)."""
    flat = y.flatten(2)
    return flat[picked // flat.shape[2], :, picked % flat.shape[2]]


class _Pair:
    """A layer in both models, with the normal equations and held-out data of its outputs."""

    def __init__(
        self, name: str, layer: nn.Module, calls: int, length: int | None, repeat: Refit | None
    ) -> None:
        self.name, self.layer, self.calls, self.length, self.repeat = name, layer, calls, length, repeat
        transposed = bool(getattr(layer, "transposed", False))
        self.note = "the last stage is transposed: only its bias can be fitted" if transposed else ""
        self.weights = not transposed
        self.normal = Normal(self.weights, layer.bias is not None)
        self.wanted: list[_Target] = []
        self.stride = 0
        self.seen = 0
        self.aside_by_position = False

    def run(self, batch: Inputs, new: Runner, wanted: Sequence[_Target]) -> None:
        """Run the new layer on a batch whose targets are recorded."""
        if not wanted:
            return
        self.wanted = list(wanted)
        new(batch, len(wanted))
        if self.wanted:
            raise RewriteError(f"{self.name}: the rewritten model calls it less often than the original")

    def target(self, x: Tensor, y: Tensor) -> None:
        if not isinstance(y, Tensor):
            raise RewriteError(f"{self.name}: its output is a {type(y).__name__}, not a tensor")
        whole = as_maps(self.layer, y.detach())
        size = tuple(whole.shape[2:])
        positions = len(whole) * prod(size)
        if not self.stride:
            self.aside_by_position = len(whole) * (self.length or 16) < 8
            values = prod(weight_of(self.layer).shape[1:]) if self.weights else 1
            most = max(_LEAST, _EACH * values) / (self.length or 16)
            self.stride = spaced(positions, most, size)
        picked = torch.arange(0, positions, self.stride, device=y.device)
        self.wanted.append(_Target(tuple(y.shape), picked, _rows(whole, picked)))

    def result(self, x: Tensor, y: Tensor) -> None:
        wanted = self.wanted.pop(0)
        if wanted.shape != y.shape:
            raise RewriteError(
                f"{self.name}: its chain's output has the shape {tuple(y.shape)}, the original's "
                f"{wanted.shape}"
            )
        x, spec = space_of(self.layer, x)
        pixels = prod(spec.output_size)
        picked = wanted.picked
        images = picked // pixels + self.seen
        self.seen += len(x)
        index = torch.arange(len(picked), device=x.device) if self.aside_by_position else images
        aside = (index % 4 == 3) & (self.repeat is None)
        rows = patches(x, spec, picked) if self.weights else x.new_zeros(spec.groups, len(picked), 0)
        was, now = wanted.rows, _rows(as_maps(self.layer, y.detach()), picked)
        room = max(0, _ASIDE // (self.length or 16)) or 1
        self.normal.add(rows[:, ~aside], (was - now)[~aside])
        kept = aside.nonzero().flatten()
        kept = kept[:: max(1, -(-len(kept) // room))]
        self.normal.keep(rows[:, kept], was[kept], now[kept])


def _accepted(pair: _Pair, ridges: tuple[float, ...] | None, score: Score | None = None) -> Refit:
    """Apply the change with the smallest held-out error, or score of the whole model, to the layer."""
    normal = pair.normal
    if not normal.count:
        raise RewriteError(f"{pair.name}: its output has too few positions to fit to: give more batches")
    if pair.repeat is not None:
        return _repeated(pair, pair.repeat)
    if ridges is None:
        values = prod(weight_of(pair.layer).shape[1:])
        ridges = RIDGES + _STIFF * (normal.count < _FEW * values)
    fits: list[tuple[str, float | None, Correction | None]] = [("nothing", None, None)]
    fits += [("bias", None, normal.shift())] * (pair.layer.bias is not None)
    fits += [("weights", ridge, normal.fit(ridge)) for ridge in ridges if pair.weights]
    was = [one.detach().clone() for one in _tensors(pair.layer)]
    best, least = fits[0], inf
    for one in fits:
        now = normal.error(one[2]) if score is None else _with(pair.layer, one[2], was, score)
        if now < least:
            best, least = one, now
    kept, chosen, fit = best
    _add(pair.layer, fit)
    return Refit(normal.error(None), normal.error(fit), normal.count, kept, chosen, pair.note)


def _repeated(pair: _Pair, before: Refit) -> Refit:
    """Make the change that was accepted before, fitted to all positions; errors stay those held out then."""
    fit = pair.normal.shift() if before.kept == "bias" else None
    if before.ridge is not None:
        fit = pair.normal.fit(before.ridge)
    _add(pair.layer, fit)
    return replace(before, positions=pair.normal.count)


def _with(layer: nn.Module, fit: Correction | None, was: list[Tensor], score: Score) -> float:
    """The score with a change made, which is taken back."""
    _add(layer, fit)
    try:
        return score(layer)
    finally:
        with torch.no_grad():
            for there, old in zip(_tensors(layer), was, strict=True):
                there.copy_(old)
        if isinstance(layer, ConvLike):
            layer.forget()


def _tensors(layer: nn.Module) -> list[Tensor]:
    return [one for one in (weight_of(layer), layer.bias) if isinstance(one, Tensor)]


def _add(layer: nn.Module, fit: Correction | None) -> None:
    if fit is None:
        return
    weight, bias = weight_of(layer), layer.bias
    with torch.no_grad():
        if fit.weight is not None:
            weight.copy_(weight.double().cpu() + fit.weight.reshape(weight.shape))
        if fit.bias is not None and isinstance(bias, Tensor):
            bias.copy_(bias.double().cpu() + fit.bias)
    if isinstance(layer, ConvLike):
        layer.forget()


def _is_conv(module: nn.Module) -> bool:
    return isinstance(module, (ConvLike, nn.Linear)) or adapters.known(module)


def _last_of(name: str, module: nn.Module) -> nn.Module:
    last = module
    while isinstance(last, nn.Sequential) and len(last):
        last = last[-1]
    if not _is_conv(last):
        raise RewriteError(f"{name}: the new layer ends in a {type(last).__name__}, not a convolution")
    return last
