"""The kernels of each layer as filters: shares of energy by band, mean response, and the picture of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from archcost.analysis.bands import BANDS, Array, energies, layers_with_kernels, mean_power
from archcost.errors import InputError, ModelError
from archcost.report.page.parts import Along, Measure
from archcost.report.text import visible

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["LayerSpectrum", "layer_spectra", "layer_spectrum", "shares_along"]


@dataclass(frozen=True, eq=False)
class LayerSpectrum:
    """The frequency response of the kernels of a layer; a kernel is of one input and one output channel."""

    name: str
    kernel_size: tuple[int, ...]
    kernels: int
    low: float
    """The share of the kernels' energy in the lowest third of all frequencies, from 0 to 1."""
    middle: float
    high: float
    half: float
    """The share below 1/4 cycle a pixel on every axis, which a map of half the size could hold."""
    low_kernels: int
    """The kernels with more than half of their energy in the low band."""
    high_kernels: int
    """The kernels with more than half of it in the high band."""
    power: Array
    """|W(f)|^2, the mean over the kernels: rows from -1/2 to 1/2 cycle, 0 in the middle; empty in 3 axes."""

    @property
    def band(self) -> str:
        """The band with the largest share: low, middle or high."""
        shares = (self.low, self.middle, self.high)
        return BANDS[shares.index(max(shares))]


def layer_spectra(model: nn.Module) -> tuple[LayerSpectrum, ...]:
    """The spectra of all layers whose kernels have several taps.

    Raises:
        ModelError: weights on `meta`.
        InputError: weights that are not finite.
    """
    layers = layers_with_kernels(model)
    return tuple(layer_spectrum(name, _kernels(name, layer)) for name, layer in layers.items())


def _kernels(name: str, module: nn.Module) -> Array:
    """(number, *taps) of a layer."""
    weight: torch.Tensor = getattr(module, "weight")  # noqa: B009
    if weight.is_meta:
        raise ModelError(f"{name}: its weights are on `meta` and have no values; load them first")
    taps = tuple(weight.shape[2:])
    found: Array = weight.detach().cpu().double().numpy().reshape(-1, *taps)
    if not np.isfinite(found).all():
        raise InputError(f"{name}: its weights are not finite")
    return found


def layer_spectrum(name: str, kernels: Array) -> LayerSpectrum:
    """The spectrum of kernels of (number, *taps)."""
    taps = kernels.shape[1:]
    each = energies(kernels)
    whole = each[:, :3].sum(1)
    total = each.sum(0)
    low, middle, high, half = total / total[:3].sum() if whole.any() else np.full(4, np.nan)
    power = mean_power(kernels) if len(taps) < 3 else np.zeros((0,) * 3)
    mostly = each > whole[:, None] / 2
    return LayerSpectrum(
        name, taps, len(kernels), float(low), float(middle), float(high), float(half),
        int(mostly[:, 0].sum()), int(mostly[:, 2].sum()), power,
    )  # fmt: skip


def shares_along(rows: Sequence[LayerSpectrum]) -> Along:
    """The picture of the page: the share of each band along the layers."""
    return Along(
        title="Which frequencies do the kernels pass?",
        about="Percent of the energy of each layer's kernels, in order of definition; a single tap has a "
        "third in each band.",
        items=[visible(row.name) or "(kernel)" for row in rows],
        measures=[
            Measure(f"{band.capitalize()} frequencies", "%", [100 * getattr(row, band) for row in rows])
            for band in BANDS
        ],
        level=100 / 3,
        level_text="a third",
    )
