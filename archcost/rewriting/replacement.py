"""Replacement: the description of new layers for old ones. No module and no tensor is made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from archcost.merging.chain import Activation, Chain, Conv, Kept, chained

__all__ = [
    "Activation",
    "Conv",
    "Kept",
    "Option",
    "Replacement",
    "RuleOptions",
    "chained",
    "named_by",
]


Option = str | float | Sequence[float]
"""The value of an option of a rule, as JSON has it: a word, a number, a boolean, or several numbers."""

RuleOptions = dict[str, Option]
"""Options of a rule by name, such as ``{"rank": 32}``."""


@dataclass(frozen=True)
class Replacement:
    """New layers for old modules; a chain without steps passes its input on."""

    chains: Mapping[str, Chain]
    """The chain of steps in the place of each replaced module, by its name."""
    exact: bool = False
    """Whether the new layers compute the same function of every input, but for rounding."""
    note: str = ""
    """Remarks for the user, such as where it is inexact at a border; empty where there are none."""
    before: tuple[str, ...] = ()
    """Names of the replaced modules that run before the first of ``chains``."""
    keep: tuple[int, ...] = ()
    """Numbers of the channels that stay between the first and the last module, where they become fewer."""

    @property
    def name(self) -> str:
        """Name of the first module that is replaced."""
        return next(iter(self.chains))

    @property
    def chain(self) -> Chain:
        """The chain in the place of the first module."""
        return self.chains[self.name]

    @property
    def convs(self) -> tuple[Conv, ...]:
        """All convolutions of all chains, in order."""
        return tuple(step for chain in self.chains.values() for step in chain if isinstance(step, Conv))

    @property
    def params(self) -> int:
        """Number of parameters of the new convolutions."""
        return sum(conv.spec.params for conv in self.convs)

    @property
    def macs(self) -> int:
        """MACs of the new convolutions, for the layer's first call."""
        return sum(conv.spec.macs for conv in self.convs)


def named_by(replacement: Replacement) -> tuple[str, ...]:
    """Names of the modules that a replacement replaces or keeps, each once, in order."""
    found: dict[str, None] = {}
    for name, chain in replacement.chains.items():
        found[name] = None
        found |= dict.fromkeys(step.name for step in chain if isinstance(step, Kept))
    return tuple(found)
