"""Replacement: what would stand in the place of layers, on paper. No module and no tensor is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from archcost.merging.chain import Activation, Chain, Conv, Kept, chained

__all__ = [
    "Activation",
    "Conv",
    "Kept",
    "Replacement",
    "chained",
    "named_by",
]


@dataclass(frozen=True)
class Replacement:
    """By the name of a module, the chain of steps in its place; a chain without steps passes its input on."""

    chains: Mapping[str, Chain]
    exact: bool = False
    """It computes the same function of every input, but for rounding."""
    note: str = ""
    """What else to know about it, in words."""
    before: tuple[str, ...] = ()
    """Of the modules that it replaces, those that come before the first one."""

    @property
    def name(self) -> str:
        """Of the first module that it replaces."""
        return next(iter(self.chains))

    @property
    def chain(self) -> Chain:
        """In the place of that first module."""
        return self.chains[self.name]

    @property
    def convs(self) -> tuple[Conv, ...]:
        """All of its convolutions, in order."""
        return tuple(step for chain in self.chains.values() for step in chain if isinstance(step, Conv))

    @property
    def params(self) -> int:
        """Of its convolutions."""
        return sum(conv.spec.params for conv in self.convs)

    @property
    def macs(self) -> int:
        """Of its convolutions, for the layer's first call."""
        return sum(conv.spec.macs for conv in self.convs)


def named_by(replacement: Replacement) -> tuple[str, ...]:
    """The modules that it replaces or keeps, each once, in order."""
    found: dict[str, None] = {}
    for name, chain in replacement.chains.items():
        found[name] = None
        found |= dict.fromkeys(step.name for step in chain if isinstance(step, Kept))
    return tuple(found)
