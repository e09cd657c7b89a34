"""`diff`, which explains what changed from one model to the next, and the Difference it returns."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from archcost.analysis.analysis import Analysis, Wanted
from archcost.analysis.changes import Change, Changes, changes_of
from archcost.analysis.comparison import inputs_differ, two_sides
from archcost.analysis.reports.difference import document_of
from archcost.analysis.totals import ChangeLimit, TotalChange, Verdict, limit_of, totals_of
from archcost.report.document import Asked, Document
from archcost.report.result import Result

if TYPE_CHECKING:
    import torch
    from torch import nn

    from archcost.trace.inputs import DTypes, Inputs, InputSize

__all__ = ["Difference", "diff"]


def diff(
    model_a: nn.Module | str | Analysis,
    model_b: nn.Module | str | Analysis,
    inputs: Inputs = None,
    *,
    inputs_b: Inputs = None,
    input_size: InputSize | None = None,
    names: tuple[str, str] | None = None,
    dtype: DTypes | None = None,
    device: str | torch.device | None = None,
    fail_on: str | Iterable[str] = (),
    progress: bool | None = None,
) -> Difference:
    """Explain what changed in cost from one version of a model to the next.

    Where `compare` puts any two models side by side, with all their modules by name, this takes them for two
    versions of one: it matches modules that were moved or renamed, and shows the fewest that explain the
    change.

    Args:
        model_a: the version before: a module, a SPEC, or an Analysis, which is used as it is.
        model_b: the version after, in the same forms.
        inputs: the inputs of both, as in `analyze`.
        inputs_b: the inputs of the second model, where they differ.
        input_size: the input size of both, as in `analyze`; with ``inputs_b``, of the first only.
        names: names of the two versions for reports.
        dtype: as in `analyze`.
        device: as in `analyze`.
        fail_on: limits such as ``"macs>+5%"``, ``"params>+100k"``, ``"peak_memory>+2MB"`` (compared with the
            change) or ``"macs>4.2G"`` (with the version after); `Difference.broken` has those that break.
        progress: as in `analyze`.

    Returns:
        The difference; ``print`` it for the tables.

    Raises:
        InputError: the inputs do not fit, or both models are Analyses, which have their inputs.
        SpecError: a SPEC names nothing that can be loaded, ``names`` are not two, or a limit cannot be read.
    """
    limits = tuple(map(limit_of, [fail_on] if isinstance(fail_on, str) else fail_on))
    wanted: Wanted = {"input_size": input_size, "dtype": dtype, "device": device}
    sides = two_sides("diff", (model_a, model_b), (inputs, inputs_b), names, progress, **wanted)
    return Difference(*sides, limits)


@dataclass(frozen=True)
class Difference(Result):
    """The change in cost from one version of a model to the next, and the modules that explain it.

    ``by`` is ``"modules"`` or ``"totals"``. A row of modules has only its own cost, not that of its children;
    what was added, removed or replaced as a whole is one row, so that the rows add up to the difference in
    total. ``depth`` sums them up by the modules at that level. Each measure has the columns ``macs_a``,
    ``macs_b``, ``macs_difference`` (b - a), ``macs_ratio`` (b / a) and ``macs_percent`` (of the total in a).
    """

    a: Analysis
    """The version before."""
    b: Analysis
    """The version after."""
    limits: tuple[ChangeLimit, ...] = ()
    """The limits that the change is held to."""
    remarks: tuple[str, ...] = ()
    """Notes on the two versions, such as a base that is out of date."""

    @cached_property
    def _found(self) -> Changes:
        return changes_of(self.a, self.b)

    @property
    def changes(self) -> tuple[Change, ...]:
        """The modules that changed, in order of definition."""
        return self._found.rows

    @cached_property
    def totals(self) -> tuple[TotalChange, ...]:
        """The totals of both versions."""
        asked = [limit.measure for limit in self.limits]
        return tuple(totals_of(self.a, self.b, self._found.same_unknown, asked))

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """Each limit with whether it holds."""
        totals = {total.name: total for total in self.totals}
        return tuple(limit.judge(totals[limit.measure]) for limit in self.limits)

    @property
    def broken(self) -> tuple[Verdict, ...]:
        """The limits that do not hold, or of which it is not known, because operations are not counted."""
        return tuple(verdict for verdict in self.verdicts if not verdict.holds)

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes on the two versions together, such as inputs that differ."""
        return (*self.remarks, *inputs_differ(self.a, self.b))

    def document(self, asked: Asked) -> Document:
        """The contents to show; `archcost.analysis.reports.difference` describes the schema of the JSON."""
        return document_of(self.a, self.b, self._found, self.totals, self.verdicts, self.notes, asked)

    def __getstate__(self) -> dict[str, Any]:
        """The fields of the dataclass, without cached properties."""
        return {name: vars(self)[name] for name in self.__dataclass_fields__}

    def __repr__(self) -> str:
        return f"<Difference from {self.a!r} to {self.b!r}: {len(self.changes)} changes>"
