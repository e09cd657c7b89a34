"""The rivals of `archcost.optimize` in `optimize.py`: how others share a budget out among low-rank layers.

Each replaces a layer by KxK -> R channels -> 1x1 (a linear layer by two), its factors the best ones of rank R
under the second moment of the layer's input patches, in closed form. They differ in R alone:

- *uniform*: the same share of each layer's MACs;
- *balf*: D. Gonzalez Martinez, arXiv 2509.25136: per layer the energy of the whitened spectrum that is lost,
  relative to all of it, and a Lagrangian for the budget, by bisection over the price of a MAC;
- *vbmf*: S. Nakajima and others, "Global Analytic Solution of Fully-observed Variational Bayesian Matrix
  Factorization" (JMLR 14, 2013), of the kernels, as in Y.-D. Kim and others (ICLR 2016); all ranks times one
  number, so that the budget is kept.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["ALLOCATORS", "Layer", "Ranks", "carried", "layers_of"]

Ranks = dict[str, int]
"""The rank of each layer that is replaced."""
ROWS = 2**15
"""Most patches of a layer that its second moment is taken of, spread over the batches."""


@dataclass(frozen=True, eq=False)
class Layer:
    """A layer that may be replaced."""

    name: str
    weight: Tensor
    """(O, D), in float64."""
    positions: int
    """Outputs of a channel for one input."""
    basis: Tensor
    """Directions of the output, (O, O), the ones with the most energy first."""
    energy: np.ndarray
    """What each of them has, relative to all."""

    @property
    def macs(self) -> int:
        return self.positions * self.weight.numel()

    def at(self, rank: int) -> int:
        """MACs of the two layers."""
        return self.positions * rank * sum(self.weight.shape)

    @property
    def most(self) -> int:
        """The largest rank that saves MACs."""
        out, ins = self.weight.shape
        return max(0, min(out, ins, -(-out * ins // (out + ins)) - 1))

    def lost(self, rank: int) -> float:
        return float(max(0.0, 1 - self.energy[:rank].sum()))


@torch.no_grad()
def layers_of(model: nn.Module, batches: Sequence[Tensor]) -> list[Layer]:
    """All convolutions and linear layers of a single group, with their spectra on the batches."""
    found = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)
    }
    seconds: dict[str, Tensor] = {}
    positions: dict[str, int] = {}

    def hook(name: str) -> Callable[..., None]:
        def add(module: nn.Module, args: tuple[Tensor], y: Tensor) -> None:
            x = args[0]
            if isinstance(module, nn.Conv2d):
                assert not isinstance(module.padding, str)
                sizes = module.kernel_size, module.dilation, module.padding, module.stride
                rows = F.unfold(x, *sizes).mT.flatten(0, 1)
            else:
                rows = x.reshape(-1, x.shape[-1])
            positions[name] = len(rows) // len(x)
            step = max(1, len(rows) * len(batches) // ROWS)
            rows = rows[torch.arange(0, len(rows), step)]
            seconds[name] = seconds.get(name, torch.zeros(())) + (rows.T @ rows).double()

        return add

    handles = [module.register_forward_hook(hook(name)) for name, module in found.items()]
    try:
        for batch in batches:
            model(batch)
    finally:
        for handle in handles:
            handle.remove()
    layers = []
    for name, second in seconds.items():
        weight = found[name].weight.detach().double().flatten(1)
        values, basis = torch.linalg.eigh(weight @ second @ weight.T)
        values = values.flip(0).clamp_min(0)
        energy = (values / values.sum().clamp_min(1e-300)).numpy()
        layers.append(Layer(name, weight, positions[name], basis.flip(1), energy))
    return layers


def uniform(layers: Sequence[Layer], limit: float) -> Ranks | None:
    """Limits, here and below, are MACs of these layers for one input; None: it cannot be kept."""

    def at(share: float) -> Ranks:
        return {
            one.name: max(1, min(one.most, int(share * one.macs / max(1, one.at(1)))))
            for one in layers
            if one.most
        }

    return _most_within(at, layers, limit, 1.0)


def vbmf(layers: Sequence[Layer], limit: float) -> Ranks | None:
    own = {one.name: analytic_rank(one.weight.numpy()) for one in layers}

    def at(times: float) -> Ranks:
        wanted = {one.name: max(1, round(times * own[one.name])) for one in layers if one.most}
        return {one.name: wanted[one.name] for one in layers if one.most and wanted[one.name] <= one.most}

    return _most_within(at, layers, limit, 64.0)


def balf(layers: Sequence[Layer], limit: float) -> Ranks | None:
    total = sum(one.macs for one in layers)
    curves = []
    for one in layers:
        ranks = np.arange(1, one.most + 1)
        macs = np.append(ranks * one.at(1), one.macs) / total
        lost = np.append(np.maximum(0, 1 - np.cumsum(one.energy)[: one.most]), 0.0)
        curves.append((macs, lost))

    def at(price: float) -> Ranks:
        taken = [int(np.argmin(lost + price * macs)) + 1 for macs, lost in curves]
        return {one.name: rank for one, rank in zip(layers, taken, strict=True) if rank <= one.most}

    low, high = 0.0, 1.0
    while spent(layers, at(high)) > limit:
        high *= 4
        if high > 1e12:
            return None
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if spent(layers, at(middle)) > limit else (low, middle)
    return at(high)


ALLOCATORS = {"uniform": uniform, "balf": balf, "vbmf": vbmf}


def spent(layers: Sequence[Layer], ranks: Ranks) -> int:
    return sum(one.at(ranks[one.name]) if one.name in ranks else one.macs for one in layers)


def _most_within(
    at: Callable[[float], Ranks], layers: Sequence[Layer], limit: float, high: float
) -> Ranks | None:
    low = 0.0
    if spent(layers, at(low)) > limit:
        return None
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if spent(layers, at(middle)) > limit else (middle, high)
    return at(low)


def analytic_rank(matrix: np.ndarray) -> int:
    """The rank of empirical VBMF, its noise found by minimising the free energy over a grid."""
    short, long = sorted(matrix.shape)
    values = np.linalg.svd(matrix, compute_uv=False)
    alpha = short / long
    tau = 2.5129 * np.sqrt(alpha)
    edge = (1 + tau) * (1 + alpha / tau)
    squares = values**2
    most = max(1, min(int(np.ceil(short / (1 + alpha))) - 1, short - 1))
    upper = squares.sum() / (short * long)
    lower = max(squares[min(most, short - 1)] / (long * edge), squares[most:].mean() / long, 1e-300)

    def energy(noise: float) -> float:
        x = squares / (long * noise)
        above = x > edge
        z = x[above]
        tau_z = 0.5 * (z - (1 + alpha) + np.sqrt(np.maximum((z - (1 + alpha)) ** 2 - 4 * alpha, 0)))
        gained = np.log(tau_z + 1) + alpha * np.log(tau_z / alpha + 1) - tau_z
        return float((x[~above] - np.log(x[~above])).sum() + (z - np.log(z)).sum() + gained.sum())

    grid = np.geomspace(min(lower, upper), max(lower, upper), 200)
    noise = min(grid, key=energy)
    return max(1, int((squares > long * noise * edge).sum()))


def carried(model: nn.Module, layers: Sequence[Layer], ranks: Mapping[str, int]) -> nn.Module:
    """A copy of the model with the new layers."""
    new = copy.deepcopy(model)
    for one in layers:
        if one.name not in ranks:
            continue
        rank, old = ranks[one.name], new.get_submodule(one.name)
        left = one.basis[:, :rank]
        first: nn.Module
        last: nn.Module
        has_bias = old.bias is not None
        if isinstance(old, nn.Linear):
            first = nn.Linear(old.in_features, rank, bias=False)
            last = nn.Linear(rank, old.out_features, bias=has_bias)
        else:
            assert isinstance(old, nn.Conv2d)
            assert not isinstance(old.padding, str)
            sizes = old.kernel_size, old.stride, old.padding, old.dilation
            first = nn.Conv2d(old.in_channels, rank, *sizes, bias=False)
            last = nn.Conv2d(rank, old.out_channels, 1, bias=has_bias)
        with torch.no_grad():
            first.weight.copy_((left.T @ one.weight).reshape(first.weight.shape))
            last.weight.copy_(left.reshape(last.weight.shape))
            if has_bias:
                last.bias.copy_(old.bias)
        new.set_submodule(one.name, nn.Sequential(first, last))
    return new.eval()
