"""Proposal: one replacement at one place of one model, with the change in every cost."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import inf
from typing import Any

from archcost.latency.timing.thresholds import NOISE
from archcost.rewriting.replacement import Replacement
from archcost.spec import ConvSpec

__all__ = ["Advice", "PlaceCosts", "Proposal", "Raced", "Stays", "best_of", "lies_in", "overlap"]

# Ranks are whole numbers: that much more than the MACs asked for is as asked.
_SLACK = 1.03


@dataclass(frozen=True)
class PlaceCosts:
    """What stands at a place costs, for one forward pass; all of its calls together."""

    params: int
    macs: int
    activation_bytes: int
    """What its layers write, the last one's output included; layers between them are not looked at."""
    depth: int
    """Weighted layers on the longest path through it."""
    nonlinearities: int
    """Activations between its convolutions."""
    receptive_field: tuple[int, ...] | None
    """Pixels that one output position sees of its input, one number an axis; None where not known."""
    latency_ms: float | None = None
    """Of its convolutions on PyTorch's own path, summed; from the store. None: not measured."""
    best_ms: float | None = None
    """The same, each on its fastest measured path."""


@dataclass(frozen=True)
class Raced:
    """Old and new layers timed in turns, in one run, on one machine."""

    old_ms: float
    new_ms: float
    spread_ms: float | None
    """Of the new one: the interquartile range; None for a single sample."""
    speedup: float
    """The median over rounds of old / new."""
    device: str
    threads: int


@dataclass(frozen=True)
class Proposal:
    """One replacement that a rule would make in one model."""

    rule: str
    options: dict[str, Any]
    """What the rule leaves open, as chosen: ``{"rank": 32}``."""
    type_name: str
    """Of the layer that is replaced."""
    shape: str
    """That layer for people: ``64 -> 128, 5x5, stride 2``."""
    replacement: Replacement
    old: tuple[ConvSpec, ...]
    """Every convolution that one pass runs there now; the first is that of the layer's first call."""
    new: tuple[ConvSpec, ...]
    """Every convolution that one pass would run there."""
    before: PlaceCosts
    after: PlaceCosts
    weight_error: float | None = None
    """||W - W'|| / ||W||, W' being the one kernel that the new layers amount to; None: not worked out."""
    output_error: float | None = None
    """The same for the layer's output, over the patches of the data given."""
    race: Raced | None = None
    """Old and new, timed here; None: not timed."""
    dtype: str = "float32"
    """Of the layer's input."""
    types: tuple[str, ...] = ()
    """Of every module that it replaces or keeps, in order."""

    @property
    def name(self) -> str:
        """Of the module that it replaces, the first where there are several."""
        return self.replacement.name

    @property
    def exact(self) -> bool:
        """The new layers compute the same function, but for rounding."""
        return self.replacement.exact

    @property
    def macs_ratio(self) -> float:
        """New MACs over old ones."""
        return self.after.macs / self.before.macs if self.before.macs else 1.0

    @property
    def error(self) -> float | None:
        """Of the output where data was given, else of the weights; 0 where exact."""
        if self.exact:
            return 0.0
        return self.weight_error if self.output_error is None else self.output_error

    @property
    def speedup(self) -> float | None:
        """Old time over new: as raced, else by the store's times of the single convolutions.

        On PyTorch's own path, which is what is built; what other paths would do is in ``best_ms``.
        """
        if self.race is not None:
            return self.race.speedup
        old, new = self.before.latency_ms, self.after.latency_ms
        return None if old is None or not new else old / new

    @property
    def recommended(self) -> bool:
        """Cheaper on paper, or faster here; never where it was slower here."""
        return self.objection is None

    @property
    def objection(self) -> str | None:
        """Why it is not recommended, with the numbers; None where it is."""
        speedup = self.speedup
        if speedup is not None and speedup < 1 - NOISE:
            return f"slower here: {self.times_text}"
        if speedup is not None and speedup > 1 + NOISE:
            return None
        if self.after.macs > self.before.macs:
            return f"it has {self.macs_ratio:.2f} times the MACs"
        if speedup is not None and not self.exact:
            return f"no faster here: {self.times_text}"
        return None

    @property
    def times_text(self) -> str:
        """Both times, for people."""
        if self.race is not None:
            return f"{self.race.old_ms:.3g} ms before, {self.race.new_ms:.3g} ms after"
        old, new = self.before, self.after
        return f"{old.latency_ms:.3g} ms before, {new.latency_ms:.3g} ms after"


@dataclass(frozen=True)
class Stays:
    """A convolution that a rule, or every rule, leaves as it is."""

    name: str
    type_name: str
    rule: str | None
    """None: every rule."""
    reason: str


@dataclass(frozen=True)
class Advice:
    """What to know about a convolution beyond any rewrite."""

    name: str
    text: str


def best_of(proposals: Iterable[Proposal], ratio: float | None = None) -> tuple[Proposal, ...]:
    """For each layer one, no module twice: recommended, what is exact and saves MACs before all others.

    Then of the smallest error, or of the fewest MACs where errors are not known; then what is exact and
    saves none. What is not exact in another way than its error says, as a note tells, comes after what is;
    where its error is not known it is never taken.

    With a ``ratio`` of the old MACs, what has more is taken only where nothing of a layer has so few.
    """
    given = _within(list(proposals), ratio)
    chosen: dict[int, Proposal] = {}
    taken: set[str] = set()
    for place, one in sorted(enumerate(given), key=lambda pair: _rank(pair[1])):
        names = set(one.replacement.chains)
        if not one.recommended or (one.error is None and one.replacement.note):
            continue
        if not any(overlap(name, other) for name in names for other in taken):
            chosen[place] = one
            taken |= names
    return tuple(chosen[place] for place in sorted(chosen))


def _within(proposals: list[Proposal], ratio: float | None) -> list[Proposal]:
    if ratio is None:
        return proposals
    least: dict[str, float] = {}
    for one in proposals:
        if not one.exact:
            least[one.name] = min(one.macs_ratio, least.get(one.name, inf))
    most = {name: max(_SLACK * ratio, ratio_) for name, ratio_ in least.items()}
    return [one for one in proposals if one.exact or one.macs_ratio <= most[one.name]]


def _rank(one: Proposal) -> tuple[int, bool, float, float]:
    saves = one.after.macs < one.before.macs
    first = 0 if one.exact and saves else 2 if one.exact else 1
    error = inf if one.error is None else one.error
    return (first, not one.exact and bool(one.replacement.note), error, one.macs_ratio)


def overlap(a: str, b: str) -> bool:
    """They are one module, or one lies in the other."""
    return lies_in(a, b) or lies_in(b, a)


def lies_in(name: str, *others: str) -> bool:
    """The module of a name is one of the others, or lies in one."""
    return any(name == one or name.startswith(f"{one}.") for one in others)
