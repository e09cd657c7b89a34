"""Proposal: a replacement for a layer of one model, with every cost before and after."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import inf

from archcost.latency.timing.thresholds import NOISE, UNRELIABLE
from archcost.rewriting.replacement import Replacement, RuleOptions
from archcost.spec import ConvSpec

__all__ = ["SLACK", "Advice", "PlaceCosts", "Proposal", "Raced", "Skipped", "best_of", "lies_in", "overlap"]

# Ranks are whole numbers: up to 3 % more MACs than asked for count as asked for.
SLACK = 1.03


@dataclass(frozen=True)
class PlaceCosts:
    """Costs of the layers at one place of a model, in one forward pass, all calls together."""

    params: int
    macs: int
    activation_bytes: int
    """Bytes that the layers write, the last output included; layers between them are not counted."""
    depth: int
    """Number of weighted layers on the longest path."""
    nonlinearities: int
    """Number of activation functions between the convolutions."""
    receptive_field: tuple[int, ...] | None
    """Receptive field of an output position in the input, in pixels, by axis; None where not known."""
    latency_ms: float | None = None
    """Stored times of the convolutions, summed, in ms; None: not measured.

    They are of PyTorch's own path; after a change of layout or path, of that one.
    """
    best_ms: float | None = None
    """Stored times of the convolutions, each on its fastest measured path, summed, in ms."""
    disturbed: bool = False
    """Whether a stored time is unreliable, because other processes interrupted its samples."""


@dataclass(frozen=True)
class Raced:
    """Old and new layers timed in turns, in one run, on one machine."""

    old_ms: float
    new_ms: float
    spread_ms: float | None
    """Interquartile range of the new layers' times; None for a single sample."""
    speedup: float
    """Median over rounds of old time / new time."""
    device: str
    threads: int
    disturbed: bool = False
    """Whether a time is unreliable, because other processes interrupted its samples."""


@dataclass(frozen=True)
class Proposal:
    """A replacement that a rule proposes for a layer of one model, with costs and errors."""

    rule: str
    options: RuleOptions
    """The chosen options of the rule: ``{"rank": 32}``."""
    type_name: str
    """Class name of the replaced layer."""
    shape: str
    """The replaced layer in words: ``64 -> 128, 5x5, stride 2``."""
    replacement: Replacement
    old: tuple[ConvSpec, ...]
    """Every convolution of a pass in the old modules; the first is that of the layer's first call."""
    new: tuple[ConvSpec, ...]
    """Every convolution of a pass in the new layers."""
    before: PlaceCosts
    after: PlaceCosts
    weight_error: float | None = None
    """||W - W'|| / ||W||, W' the kernel that the new layers compose to; None: not computed."""
    output_error: float | None = None
    """Relative error of the layer's output, predicted from the covariance of the calibration data."""
    race: Raced | None = None
    """Old and new layers timed in turns on this machine; None: not timed."""
    dtype: str = "float32"
    """Data type of the layer's input."""
    types: tuple[str, ...] = ()
    """Class names of all modules that are replaced or kept, in order."""

    @property
    def name(self) -> str:
        """Name of the replaced module, the first where there are several."""
        return self.replacement.name

    @property
    def exact(self) -> bool:
        """Whether the new layers compute the same function, but for rounding."""
        return self.replacement.exact

    @property
    def macs_ratio(self) -> float:
        """New MACs over old ones."""
        return self.after.macs / self.before.macs if self.before.macs else 1.0

    @property
    def error(self) -> float | None:
        """Error of the output where calibration data was given, else of the weights; 0 where exact."""
        if self.exact:
            return 0.0
        return self.weight_error if self.output_error is None else self.output_error

    @property
    def speedup(self) -> float | None:
        """Old time over new: timed in turns, else from the stored times of single convolutions.

        Stored times are those of the paths that the layers use; ``best_ms`` has others.
        """
        if self.race is not None:
            return self.race.speedup
        old, new = self.before.latency_ms, self.after.latency_ms
        return None if old is None or not new else old / new

    @property
    def disturbed(self) -> bool:
        """Whether ``speedup`` is unreliable, because other processes interrupted the samples of a time."""
        if self.race is not None:
            return self.race.disturbed
        return self.speedup is not None and (self.before.disturbed or self.after.disturbed)

    @property
    def recommended(self) -> bool:
        """Whether it has fewer MACs or was faster on this machine, and was not slower."""
        return self.objection is None

    @property
    def objection(self) -> str | None:
        """Why it is not recommended, with the numbers; None where it is."""
        speedup = self.speedup
        if speedup is not None and speedup < 1 - NOISE:
            return f"slower on this machine: {self.times_text}"
        if speedup is not None and speedup > 1 + NOISE:
            return None
        if self.after.macs > self.before.macs:
            return f"more MACs: {self.macs_ratio:.2f} times those of the layer"
        if speedup is not None and not self.exact:
            return f"no faster on this machine: {self.times_text}"
        return None

    @property
    def times_text(self) -> str:
        """Both times in words: ``1.2 ms before, 0.8 ms after``."""
        doubt = f" ({UNRELIABLE})" * self.disturbed
        if self.race is not None:
            return f"{self.race.old_ms:.3g} ms before, {self.race.new_ms:.3g} ms after{doubt}"
        old, new = self.before, self.after
        return f"{old.latency_ms:.3g} ms before, {new.latency_ms:.3g} ms after{doubt}"


@dataclass(frozen=True)
class Skipped:
    """A convolution that a rule, or every rule, skipped, with the reason."""

    name: str
    type_name: str
    rule: str | None
    """Name of the rule; None: every rule."""
    reason: str


@dataclass(frozen=True)
class Advice:
    """A remark on a convolution that no rule makes."""

    name: str
    text: str


def best_of(proposals: Iterable[Proposal], ratio: float | None = None) -> tuple[Proposal, ...]:
    """The best recommended proposal for each layer, no module twice.

    Exact proposals that save MACs come first; then the smallest error (where errors are not known the MACs
    closest to those asked for, as fewer lose more); then exact proposals that save no MACs. Inexact proposals
    with a note, as on a wrong border, come last of their kind, and are never taken where their error is not
    known.

    Args:
        ratio: the MACs asked for, as a share of the old ones; an inexact proposal with more is taken only
            where the layer has none with so few. None: any.
    """
    given = _within(list(proposals), ratio)
    chosen: dict[int, Proposal] = {}
    taken: set[str] = set()
    for place, one in sorted(enumerate(given), key=lambda pair: _rank(pair[1], ratio)):
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
    most = {name: max(SLACK * ratio, ratio_) for name, ratio_ in least.items()}
    return [one for one in proposals if one.exact or one.macs_ratio <= most[one.name]]


def _rank(one: Proposal, ratio: float | None) -> tuple[int, bool, float, float]:
    saves = one.after.macs < one.before.macs
    first = 0 if one.exact and saves else 2 if one.exact else 1
    error = inf if one.error is None else one.error
    most = ratio is not None and first == 1 and one.error is None
    macs = -one.macs_ratio if most else one.macs_ratio
    return (first, not one.exact and bool(one.replacement.note), error, macs)


def overlap(a: str, b: str) -> bool:
    """Whether two names are the same module, or one lies inside the other."""
    return lies_in(a, b) or lies_in(b, a)


def lies_in(name: str, *others: str) -> bool:
    """Whether the module of a name is one of the others, or lies inside one."""
    return any(name == one or name.startswith(f"{one}.") for one in others)
