"""The words for a proposal: its options, its verdict, its errors and times."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from archcost.rewriting.proposal import SLACK, Proposal
from archcost.rewriting.replacement import Option, named_by

__all__ = [
    *("UNRELIABLE_SIGN", "ProposalRow", "error_text", "ms_text", "options_of", "options_text", "verdict_of")
]

UNRELIABLE_SIGN = "~"
"""Before times whose samples were interrupted."""


@dataclass(frozen=True)
class ProposalRow:
    """A row of the table: a proposal, or the same proposal for several layers that are alike."""

    proposals: tuple[Proposal, ...]
    total_macs: int
    """MACs of the model."""
    best: int = 0
    """The number of its proposals that `Proposals.best` chooses."""
    ratio: float | None = None
    """The MACs asked for, as a share of those of each layer; None where that is not known."""

    @property
    def first(self) -> Proposal:
        return self.proposals[0]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(one.name for one in self.proposals)


def options_of(one: Proposal) -> str:
    """The options of a proposal in words; for merge the layers that are folded and their classes."""
    if one.rule == "bottleneck":
        # The ranks that are given tell its form.
        return options_text({name: value for name, value in one.options.items() if name != "form"})
    if one.rule != "merge":
        return options_text(one.options)
    kinds = dict(zip(named_by(one.replacement), one.types, strict=False))
    if "block" in one.options:
        return f"fold the branches of {_with_kind(one.name, kinds)}"
    folded = (name for name in one.replacement.chains if name != one.name)
    return f"fold {', '.join(_with_kind(name, kinds).rpartition('.')[2] for name in folded)}"


def _with_kind(name: str, kinds: Mapping[str, str]) -> str:
    return f"{name} ({kinds[name]})" if name in kinds else name


def options_text(options: Mapping[str, Option]) -> str:
    """Options in words: ``rank 32, order rows first``; a list is ``8x16``, and of channels their number."""
    if "keep" in options:
        return f"channels {len(options['keep'])}"  # type: ignore[arg-type]
    return ", ".join(f"{name.replace('_', ' ')} {_option(value)}" for name, value in options.items())


def _option(value: Option) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "x".join(map(_option, value)) if isinstance(value, (list, tuple)) else str(value)


def error_text(value: float) -> str:
    """An error with three decimals, ``0.214``, or as ``3e-07`` where it is too small or large for that."""
    return "0" if value == 0 else f"{value:.3f}" if 0.001 <= value < 1000 else f"{value:.0e}"


def ms_text(value: float) -> str:
    """A time in ms without its unit: ``1.24``."""
    return f"{value:.3f}" if value < 1 else f"{value:.2f}" if value < 100 else f"{value:,.0f}"


def verdict_of(line: ProposalRow) -> str:
    """Why `Proposals.best` chooses a proposal, or why not."""
    if line.best:
        count = len(line.proposals)
        said = _why_best(line.first, line.ratio)
        return said if line.best == count else f"{said} ({line.best} of {count})"
    one = line.first
    if one.objection is not None:
        return one.objection.partition(":")[0]
    if one.exact:
        return "exact" if one.after.macs < one.before.macs else "exact, saves no MACs"
    asked = line.ratio is None or one.macs_ratio <= SLACK * line.ratio
    return "" if asked else "more MACs than asked"


def _why_best(one: Proposal, ratio: float | None) -> str:
    """The criterion by which `best_of` chooses a proposal."""
    if one.exact:
        return "exact"
    if ratio is not None and one.macs_ratio > SLACK * ratio:
        return "fewest MACs"
    if one.error is None:
        return "fewest MACs" if ratio is None else "MACs as asked"
    return "closest weights" if one.output_error is None else "closest outputs"
