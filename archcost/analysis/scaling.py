"""How costs grow along a sweep: exponents, what costs most at either end, and what overtakes what."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from math import log

from archcost.analysis.traced import TracedModel

__all__ = ["Growth", "Overtaken", "Share", "growth_of", "overtaken", "shares_of"]

# An exponent this close to a whole number has its word; layers with less than a share are not compared.
_NEAR, _LEAST_SHARE = 0.02, 0.02
_WORDS = {0: "constant", 1: "linear", 2: "quadratic", 3: "cubic", 4: "quartic"}


@dataclass(frozen=True)
class Share:
    """The MACs of the operations of a kind in modules of a type: the projections of attention, say."""

    name: str
    """Kind and type: ``matmul in MultiheadAttention``."""
    macs: int
    share: float
    """The share of the model's MACs."""
    layer: str
    """The costliest module among them."""


@dataclass(frozen=True)
class Growth:
    """How a measure grows along an axis of a sweep: as a power of it, by least squares on logarithms."""

    measure: str
    along: str
    """``side``: the spatial size in each axis; or ``batch``."""
    exponent: float
    at_low: float
    """The exponent between the two smallest points."""
    at_high: float
    """The exponent between the two largest points."""
    points: int

    @property
    def word(self) -> str:
        """``quadratic``, or between which whole exponents it lies at either end."""
        ends = (self.exponent, self.at_low, self.at_high)
        whole = round(self.exponent)
        if whole in _WORDS and all(abs(one - whole) <= _NEAR for one in ends):
            return _WORDS[whole]
        if abs(self.at_low - self.at_high) < 0.05:
            return f"as the power {self.exponent:.2f}"
        return f"as the power {self.at_low:.2f} to {self.at_high:.2f}"


@dataclass(frozen=True)
class Overtaken:
    """A kind of layer that costs less than another at the small end of a sweep, and more at the large end."""

    faster: str
    slower: str
    side: float
    """The first side of the sweep at which it costs more."""


def shares_of(analysis: TracedModel) -> tuple[Share, ...]:
    """The MACs by kind of operation and type of module, the largest first."""
    types = {row.name: row.type_name for row in analysis.modules}
    sums: defaultdict[tuple[str, str], defaultdict[str, int]] = defaultdict(lambda: defaultdict(int))
    for cost in analysis.operations:
        if cost.macs:
            sums[cost.kind, types.get(cost.module, "")][cost.module] += cost.macs
    total = analysis.total.macs or 1
    found = []
    for (kind, type_name), modules in sums.items():
        macs, layer = sum(modules.values()), max(modules, key=lambda name: modules[name])
        found.append(Share(f"{kind} in {type_name}" if type_name else kind, macs, macs / total, layer))
    return tuple(sorted(found, key=lambda one: -one.macs))


def growth_of(measure: str, along: str, at: Sequence[float], values: Sequence[float]) -> Growth | None:
    """The growth over points in order; None for fewer than two, or where a value is not above 0."""
    if len(at) < 2 or min(values) <= 0 or len(set(at)) < len(at):
        return None
    x, y = [log(one) for one in at], [log(one) for one in values]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    over = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    slope = over / sum((a - mean_x) ** 2 for a in x)
    low, high = (y[1] - y[0]) / (x[1] - x[0]), (y[-1] - y[-2]) / (x[-1] - x[-2])
    return Growth(measure, along, slope, low, high, len(at))


def overtaken(sides: Sequence[float], shares: Sequence[tuple[Share, ...]]) -> tuple[Overtaken, ...]:
    """Kinds of layers that cost less than another at the first point, and more at the last."""
    tables = [{one.name: one for one in each} for each in shares]
    names = [n for n, one in tables[-1].items() if one.share >= _LEAST_SHARE and n in tables[0]]
    found = []
    for fast in names:
        for slow in names:
            below = tables[0][fast].macs < tables[0][slow].macs
            if below and tables[-1][fast].macs > tables[-1][slow].macs:
                macs = [(t[fast].macs if fast in t else 0, t[slow].macs if slow in t else 0) for t in tables]
                at = next(i for i, (a, b) in enumerate(macs) if a > b)
                found.append(Overtaken(fast, slow, sides[at]))
    return tuple(found)
