"""Selections within a budget under several models of the error: the few that are worth carrying out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from archcost.analysis.budget import Budget
from archcost.errors import RewriteError
from archcost.optimizing.allocation import Item, Unreachable, chosen, least
from archcost.optimizing.candidates import Candidate, key_of
from archcost.optimizing.layers import Layer
from archcost.optimizing.limits import RESOURCES, Limits, limits_of
from archcost.optimizing.sensitivity import Response
from archcost.report.units import percent_text

__all__ = ["Choosing", "Planned", "Selection"]

Score = Callable[[Candidate], float]

_REDUCED = "bottleneck out"
_MARGINS = {"latency": 0.98}
"""Shares of limits that are made use of: a time is never known to the last per cent."""


@dataclass(eq=False)
class Planned:
    """The layers' candidates, the responses to their errors, and the whole model's resources."""

    totals: Mapping[str, float]
    """Costs of the model that is planned for, by resource."""
    given: Mapping[str, float]
    """Costs of the given model, before its blocks were merged."""
    candidates: Mapping[str, Sequence[Candidate]]
    response: Mapping[tuple[str, bool], Response]
    """By the layer's name, and whether it becomes narrower: such errors are of another kind than noise."""
    seconds: Mapping[str, float]
    """Seconds of each layer inside of the model that is planned for; empty where they are not needed."""
    old_seconds: float = 0.0
    """Seconds of a pass of that model."""

    def limits(self, budget: Budget) -> Limits:
        """The limits of a budget; raises InputError where it limits nothing."""
        return limits_of(budget, self.totals, self.given)


@dataclass(frozen=True)
class Selection:
    """Chosen candidates, at most one for each layer, and the model of the error that chose them."""

    label: str
    candidates: tuple[Candidate, ...]
    spends: Mapping[str, float] = field(hash=False, compare=False)
    """The whole model's resources with them."""

    @property
    def key(self) -> frozenset[tuple[str, str, str]]:
        return frozenset(map(key_of, self.candidates))


@dataclass(frozen=True, eq=False)
class Choosing:
    """The layers with their candidates, the resources that are limited, and the response to errors."""

    layers: Sequence[Layer]
    candidates: Mapping[str, Sequence[Candidate]]
    limits: Limits
    response: Mapping[tuple[str, bool], Response]
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Time of each layer as it is, where the latency is limited."""

    def sensitive(self, one: Candidate) -> float:
        """The expected change of the outputs."""
        return self.response_to(one)(one.error)

    def response_to(self, one: Candidate) -> Response:
        """The response of the outputs to errors such as a candidate's."""
        return self.response[one.name, bool(one.others)]

    def within(
        self, label: str, score: Score, allowed: Callable[[Candidate], bool] | None = None
    ) -> Selection:
        """The best selection under a model of the error.

        Raises:
            RewriteError: no selection keeps the budget; the message says the least that can be reached, and
                the layers that hold it up.
        """
        names = list(self.limits.most)
        options: list[list[Candidate | None]] = []
        for layer in self.layers:
            usable = self.candidates.get(layer.name, ())
            as_it_is: list[None] = [] if layer.must_change else [None]
            options.append([*as_it_is, *(one for one in usable if allowed is None or allowed(one))])
            if not options[-1]:
                raise RewriteError(f"the budget cannot be kept: no candidate of {layer.name} keeps sram")
        items = self._items(names, options, score)
        fixed = self._fixed(names)
        room = [
            _MARGINS.get(n, 1.0) * self.limits.most[n] - rest for n, rest in zip(names, fixed, strict=True)
        ]
        try:
            if min(room, default=1.0) <= 0:
                raise Unreachable(tuple(least(items, at) for at in range(len(names))))
            taken = chosen(items, room)
        except Unreachable as error:
            raise RewriteError(self._blocked(names, fixed, error.least, allowed is None)) from None
        picked = tuple(one for row, at in zip(options, taken, strict=True) if (one := row[at]) is not None)
        return Selection(label, picked, self.totals(picked))

    def least(self, resource: str) -> float:
        """The least of a resource that can be reached."""
        options = [[None, *self.candidates.get(layer.name, ())] for layer in self.layers]
        return self._fixed([resource])[0] + least(self._items([resource], options, lambda _: 0.0), 0)

    def _items(
        self, names: Sequence[str], options: Sequence[Sequence[Candidate | None]], score: Score
    ) -> list[list[Item]]:
        at = {layer.name: number for number, layer in enumerate(self.layers)}
        return [
            [
                Item(self.spent(layer, None, names), 0.0)
                if one is None
                else Item(self.spent(layer, one, names), score(one), tuple(at[name] for name in one.others))
                for one in row
            ]
            for layer, row in zip(self.layers, options, strict=True)
        ]

    def fastest(self) -> Selection:
        """The least time that is promised, whatever the error."""

        def slower(one: Candidate) -> float:
            layer = self._by_name[one.name]
            return self.spent(layer, one, ["latency"])[0] - self.spent(layer, None, ["latency"])[0]

        free = replace(self, limits=replace(self.limits, most={}))
        return free.within("fastest", slower)

    def totals(self, picked: Iterable[Candidate]) -> dict[str, float]:
        """The whole model's resources with some candidates."""
        names = list(self.limits.totals)
        found = dict(self.limits.totals)
        for one in picked:
            layer = self._by_name[one.name]
            now, was = self.spent(layer, one, names), self.spent(layer, None, names)
            for name, a, b in zip(names, now, was, strict=True):
                found[name] += a - b
        return found

    def spent(self, layer: Layer, one: Candidate | None, names: Sequence[str]) -> tuple[float, ...]:
        """Resources that a layer takes with a candidate, less those that other layers save by it."""
        itemsize = next((p.element_size() for p in layer.module.parameters()), 4)
        if one is None:
            macs, params, flash = layer.macs, layer.params, layer.flash
            seconds = self.seconds.get(layer.name, 0.0)
        else:
            others = [self._by_name[name] for name in one.others]
            macs = one.macs - sum(other.macs for other in others)
            params = one.params - sum(other.params for other in others)
            flash = one.flash - sum(other.flash for other in others)
            seconds = (one.seconds or 0.0) - sum(self.seconds.get(name, 0.0) for name in one.others)
        spent = dict(zip(RESOURCES, (macs, params, params * itemsize, seconds, flash), strict=True))
        return tuple(float(spent[name]) for name in names)

    @cached_property
    def _by_name(self) -> dict[str, Layer]:
        return {layer.name: layer for layer in self.layers}

    def _fixed(self, names: Sequence[str]) -> list[float]:
        """What is spent outside of all these layers."""
        held = [self.spent(layer, None, names) for layer in self.layers]
        return [self.limits.totals[name] - sum(one[at] for one in held) for at, name in enumerate(names)]

    def _blocked(
        self, names: Sequence[str], fixed: Sequence[float], least: Sequence[float], all_: bool
    ) -> str:
        if not self.layers:
            return "the budget cannot be kept: the model runs no convolution and no linear layer"
        parts = []
        for at, name in enumerate(names):
            total = self.limits.given[name]
            reach = (fixed[at] + least[at]) / total / _MARGINS.get(name, 1.0) if total else 1.0
            if reach > self.limits.share(name):
                parts.append(
                    f"{name}={self.limits.share(name):.3g} of the model; the least reachable is {reach:.3g}"
                )
        if not parts:
            parts.append("each limit can be kept alone, and not all together")
        kept = [one for one in self.layers if not self.candidates.get(one.name)]
        kept.sort(key=lambda one: -one.macs)
        total = self.limits.given["macs"]
        held = "; ".join(
            f"{one.name} has {percent_text(100 * one.macs / total)} % of the MACs and stays: "
            f"{one.refusal or 'no candidate of these rules and inputs saves anything'}"
            for one in kept[:3]
            if total and one.macs >= 0.02 * total
        )
        rest = self.limits.totals["macs"] - sum(one.macs for one in self.layers)
        rest = rest / total if total else 0.0
        outside = f"; {percent_text(100 * rest)} % of the MACs are in no convolution or linear layer" * (
            rest > 0.02
        )
        return f"the budget cannot be kept: {', '.join(parts)}{'; ' * bool(held)}{held}{outside}"

    def selections(self, rules: Sequence[str]) -> list[Selection]:
        """One selection for each model of the error, without repetitions; the first is the best guess.

        Raises:
            RewriteError: none keeps the budget.
        """
        found = [
            self.usual("sensitivity", self.sensitive),
            self.usual("error alone", lambda one: one.error),
        ]
        single: dict[str, Callable[[Candidate], bool] | None] = self.singles(rules)
        del single[""]
        single[_REDUCED] = lambda one: one.rule == "low_rank" or one.options.get("form") == "out"
        for label, allowed in single.items():
            for score, said in ((self.sensitive, label), (lambda one: one.error, f"{label}, error alone")):
                try:
                    found.append(self.within(said, score, allowed))
                except RewriteError:
                    break
        unique: dict[frozenset[tuple[str, str, str]], Selection] = {}
        for one in found:
            unique.setdefault(one.key, one)
        return list(unique.values())

    def usual(self, label: str, score: Score) -> Selection:
        """The best selection without fewer channels, or with them where the budget needs it.

        Channels that a few hundred inputs hardly use matter to others, more than their errors say.
        """
        try:
            return self.within(label, score, lambda one: not one.others)
        except RewriteError:
            return self.within(label, score)

    @staticmethod
    def singles(rules: Sequence[str]) -> dict[str, Callable[[Candidate], bool] | None]:
        """All rules but for fewer channels, under an empty label; all of them, as narrow; and each rule alone
        with that of linear layers."""
        found: dict[str, Callable[[Candidate], bool] | None] = {"": lambda one: not one.others}
        if "narrow" in rules:
            found["narrow"] = None
        alone = [rule for rule in rules if rule not in ("narrow", "low_rank")]
        for rule in alone if len(alone) > 1 else ():
            found[rule] = lambda one, rule=rule: one.rule in (rule, "low_rank")  # type: ignore[misc]
        return found
