"""What could stand in each layer's place: ranks of its factorisations on a fine grid, with their costs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from archcost.merging.chain import Conv
from archcost.optimizing.layers import Layer
from archcost.optimizing.spectra import Curve, Table, curves
from archcost.optimizing.statistics import Statistics, Whole
from archcost.rewriting.carry import unfolded_of
from archcost.rewriting.proposal import PlaceCosts
from archcost.rewriting.replacement import Option, Replacement
from archcost.rewriting.rule import get
from archcost.rewriting.rules.planned import narrower
from archcost.rewriting.survey.places import costs_after
from archcost.spec import ConvSpec
from archcost.weights.elimination import eliminated
from archcost.weights.features import weight_of

__all__ = ["RULES", "SHARES", "Candidate", "candidates_of", "family_of", "key_of", "replacement_of"]

RULES = ("bottleneck", "asymmetric", "separable", "narrow", "low_rank")
"""The families that are planned, by default."""
SHARES = tuple(round(0.05 * n, 2) for n in range(1, 20))
"""The grid: shares of the layer's MACs."""
_STEP_FROM, _STEP = 32, 8
_FEW = 4
"""Positions for each value of a patch, below which a covariance does not say which channels may go."""
_WIDEST = 3072
"""Values of a patch up to which channels are eliminated: the time goes with the third power."""


@dataclass(frozen=True)
class Candidate:
    """New layers for a layer, on paper: their costs and its squared relative error."""

    name: str
    rule: str
    options: Mapping[str, Option] = field(hash=False)
    macs: int
    params: int
    error: float
    """Squared error of the layer's output, relative to its variance."""
    seconds: float | None = None
    """Predicted or measured time; None: not known."""
    flash: int = 0
    """Bytes of its weights in the dtype of a budget on flash."""
    others: tuple[str, ...] = ()
    """Other layers that become narrower with it, in order of execution: its costs are those of all."""


def family_of(one: Candidate) -> str:
    """The rule of a candidate, with the option that is a word."""
    return f"{one.rule} {one.options.get('form', one.options.get('first', ''))}".strip()


def key_of(one: Candidate) -> tuple[str, str, str]:
    """What tells candidates apart."""
    return one.name, one.rule, str(sorted(one.options.items()))


def candidates_of(
    layer: Layer,
    seen: Statistics | None,
    rules: Iterable[str] = RULES,
) -> list[Candidate]:
    """The candidates of a layer that save MACs or parameters; none where it may not be replaced."""
    if layer.refusal is not None or layer.specs[0].transposed:
        return []
    wanted = set(rules)
    spec = layer.spec
    if spec.groups > 1 and spec.in_channels == spec.groups:
        return []
    made: list[Candidate] = []
    kernel = weight_of(layer.module)[None, ..., None] if layer.linear else unfolded_of(layer.module).given
    found, table = ([], None) if layer.read_by_parent else curves(kernel, seen, layer.linear)
    for curve in found:
        if curve.rule in wanted:
            made += _along(layer, curve)
    if table is not None and table.rule in wanted:
        made += _between(layer, table)
    best: dict[tuple[int, int], Candidate] = {}
    for one in made:
        if (one.macs < layer.macs or one.params < layer.params) and one.error < 1:
            key = one.macs, one.params
            if key not in best or one.error < best[key].error:
                best[key] = one
    if "narrow" in wanted:
        return [*best.values(), *_narrow(layer, seen)]
    return list(best.values())


def _narrow(layer: Layer, seen: Statistics | None) -> Iterator[Candidate]:
    """Fewer channels for the layer to read, where data says which ones it can do without."""
    found, weight = layer.hidden, weight_of(layer.module).detach()
    size, width = weight[0].numel(), weight.shape[1]
    if found is None or not isinstance(seen, Whole) or size > _WIDEST or seen.count < _FEW * size:
        return
    step = _STEP if width >= _STEP_FROM else 1
    counts = {count for share in SHARES if 0 < (count := step * round(share * width / step)) < width}
    for keep, error in eliminated(weight, seen.moments.covariance[0], counts).values():
        options: dict[str, Option] = {"keep": list(keep)}
        new = narrower(found, keep)
        if error < 1:
            yield Candidate(layer.name, "narrow", options, new.macs, new.params, error, others=found.makers)


def replacement_of(layer: Layer, rule: str, options: Mapping[str, Option]) -> Replacement:
    """The new layers of a candidate."""
    if rule == "narrow":
        assert layer.hidden is not None
        return narrower(layer.hidden, options["keep"])  # type: ignore[arg-type]
    if layer.subject is None:
        rank = int(options["rank"])  # type: ignore[arg-type]
        spec = layer.spec
        first = ConvSpec(spec.in_channels, rank, 1, bias=False, input_size=spec.input_size, batch=spec.batch)
        second = ConvSpec(
            rank, spec.out_channels, 1, bias=spec.bias, input_size=spec.input_size, batch=spec.batch
        )
        return Replacement({layer.name: (Conv(first, linear=True), Conv(second, linear=True))})
    return get(rule).replacement(layer.subject, **options)


def costs_of(layer: Layer, replacement: Replacement) -> tuple[int, int]:
    """MACs and parameters of new layers, all calls together."""
    if layer.subject is None:
        ranks = replacement.convs[0].spec.out_channels
        positions = layer.macs // (layer.spec.in_channels * layer.spec.out_channels)
        return positions * ranks * (layer.spec.in_channels + layer.spec.out_channels), replacement.params
    after: PlaceCosts = costs_after(layer.subject, replacement)
    return after.macs, after.params


def _rounded(rank: int, full: int) -> int:
    """Ranks of vectors' widths, where that changes them little."""
    return rank - rank % _STEP if _STEP_FROM <= rank < full else rank


def _along(layer: Layer, curve: Curve) -> list[Candidate]:
    """The candidates of a curve: costs are affine in the rank."""
    full = curve.full
    if full < 2:
        return []

    def costs(rank: int) -> tuple[int, int]:
        return costs_of(layer, replacement_of(layer, curve.rule, {**curve.options, curve.option: rank}))

    one, two = costs(1), costs(2)
    slope = [b - a for a, b in zip(one, two, strict=True)]
    ranks: set[int] = set()
    for share in SHARES:
        for base, first, step in zip((layer.macs, layer.params), one, slope, strict=True):
            rank = int((share * base - first) // step) + 1 if step > 0 else 0
            if 1 <= rank < full:
                ranks.add(_rounded(rank, full))
    return [
        Candidate(
            layer.name,
            curve.rule,
            {**curve.options, curve.option: rank},
            one[0] + slope[0] * (rank - 1),
            one[1] + slope[1] * (rank - 1),
            float(curve.lost[rank]),
        )
        for rank in sorted(ranks)
    ]


def _between(layer: Layer, table: Table) -> list[Candidate]:
    """For each share of the MACs the pair of ranks with the least error."""
    front, back = (n - 1 for n in table.lost.shape)
    if min(front, back) < 3:
        return []

    def costs(one: int, two: int) -> tuple[int, int]:
        return costs_of(
            layer,
            replacement_of(layer, table.rule, {**table.options, "rank_in": one, "rank_out": two}),
        )

    corner, right, below, both = costs(1, 1), costs(1, 2), costs(2, 1), costs(2, 2)
    r1 = torch.arange(front + 1, dtype=torch.float64)[:, None]
    r2 = torch.arange(back + 1, dtype=torch.float64)[None, :]

    def surface(at: int) -> Tensor:
        b = both[at] - right[at] - below[at] + corner[at]
        a, c = below[at] - corner[at] - b, right[at] - corner[at] - b
        return corner[at] + (r1 - 1) * a + (r2 - 1) * c + (r1 * r2 - 1) * b

    macs, params = surface(0), surface(1)
    free = torch.ones_like(macs, dtype=torch.bool)
    free[0], free[:, 0] = False, False
    for axis, most in ((r1, front), (r2, back)):
        free &= (axis <= _STEP_FROM) | (axis % _STEP == 0) | (axis == most)
    free[-1, -1] = False
    found = []
    for share in SHARES:
        for surface_, base in ((macs, layer.macs), (params, layer.params)):
            allowed = free & (surface_ <= share * base)
            if bool(allowed.any()):
                at = int(torch.where(allowed, table.lost, torch.inf).argmin())
                one, two = divmod(at, back + 1)
                found.append(
                    Candidate(
                        layer.name,
                        table.rule,
                        {**table.options, "rank_in": one, "rank_out": two},
                        int(macs[one, two]),
                        int(params[one, two]),
                        float(table.lost[one, two]),
                    )
                )
    return found
