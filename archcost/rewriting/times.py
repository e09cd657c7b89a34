"""Stored times of old and new convolutions. Nothing is measured here."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace

import torch

from archcost.latency.paths import is_rough
from archcost.latency.store.fingerprint import fingerprint
from archcost.latency.store.kinds import PATH
from archcost.latency.store.measurement import Measurement
from archcost.latency.store.store import Store
from archcost.paths.registry import available
from archcost.rewriting.proposal import PlaceCosts
from archcost.spec import ConvSpec

__all__ = ["PLAIN", "Times"]

PLAIN = ("native", "contiguous")
"""PyTorch's own path in its default layout."""


class Times:
    """The stored times of this machine by convolution, at PyTorch's present number of threads."""

    def __init__(self, store: Store) -> None:
        device = fingerprint()
        threads = torch.get_num_threads()
        self.device = f"{device}, {threads} thread{'s' * (threads != 1)}"
        self._found: dict[tuple[ConvSpec, str], list[Measurement]] = defaultdict(list)
        known = set(available())
        for one in store.all(device.hash):
            key = one.key
            if key.threads == threads and key.kind == PATH and key.path in known and not is_rough(one):
                self._found[_plain(key.spec), key.dtype].append(one)

    def of(
        self, costs: PlaceCosts, specs: Iterable[ConvSpec], dtype: str, way: tuple[str, str] = PLAIN
    ) -> PlaceCosts:
        """The costs with the summed times of the convolutions, where all of them were measured.

        Args:
            way: the path and the layout of ``latency_ms``.
        """
        native, best, disturbed = 0.0, 0.0, False
        for spec in specs:
            found = self._found.get((_plain(spec), dtype), [])
            own = [one for one in found if (one.key.path, one.key.layout) == way]
            if not own:
                return costs
            fastest = min(found, key=lambda one: one.median_s)
            native, best = native + own[0].median_s, best + fastest.median_s
            disturbed |= own[0].disturbed or fastest.disturbed
        return replace(costs, latency_ms=1e3 * native, best_ms=1e3 * best, disturbed=disturbed)


def _plain(spec: ConvSpec) -> ConvSpec:
    """The convolution that is executed: other modes than zeros pad in an operation before it."""
    if spec.padding_mode == "zeros":
        return spec
    size = tuple(n + low + high for n, (low, high) in zip(spec.input_size, spec.padding, strict=True))
    return replace(spec, padding=0, padding_mode="zeros", input_size=size)
