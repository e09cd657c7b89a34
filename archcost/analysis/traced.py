"""TracedModel: a Trace with its Costs, its receptive fields and the notes on both."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from archcost.cost.costs import Costs, ModuleCost, OpCost, Total, Uncounted
from archcost.errors import ArchcostError, ModelError, SpecError
from archcost.report.text import visible
from archcost.trace.graph import Trace, refs

if TYPE_CHECKING:
    from torch import nn

    from archcost.fields.fields import Fields

__all__ = ["TracedModel"]


@dataclass(frozen=True)
class TracedModel:
    """A Trace with its Costs and receptive fields."""

    trace: Trace
    costs: Costs = field(metadata={"saved": False})
    name: str
    """The name of the model: its class, or its SPEC."""
    notes: tuple[str, ...] = ()
    """Notes on assumptions, such as an input size, and on exceptions from the usual procedure."""
    _model: Callable[[], nn.Module | None] | None = field(default=None, repr=False, metadata={"saved": False})
    """A function that returns the model or None: a weak reference, or for a SPEC a builder."""

    @property
    def total(self) -> Total:
        """The totals of the model: ``.params``, ``.macs``, ``.flops``, ``.peak_memory_bytes`` ..."""
        return self.costs.total

    @property
    def modules(self) -> tuple[ModuleCost, ...]:
        """The costs of every module, the model itself first, parents before their children."""
        return self.costs.modules

    @property
    def layers(self) -> tuple[ModuleCost, ...]:
        """The costs of the modules without children, in order of definition."""
        return tuple(row for row in self.modules if row.is_leaf)

    @property
    def operations(self) -> tuple[OpCost, ...]:
        """The costs of every operation, in the order of execution."""
        return self.costs.ops

    @property
    def uncounted(self) -> tuple[Uncounted, ...]:
        """The operations whose count is unknown, with their modules and the reasons."""
        return self.costs.uncounted

    @cached_property
    def fields(self) -> Fields:
        """The receptive fields of all modules and of the network, computed on first use."""
        from archcost.fields.fields import Fields

        return Fields(self.trace)

    @property
    def fields_or_none(self) -> Fields | None:
        """`fields`, or None where they cannot be computed, so that a report can still show the costs."""
        try:
            return self.fields
        except ArchcostError:
            return None

    @property
    def model(self) -> nn.Module:
        """The analysed model while it exists: an Analysis does not keep it alive.

        Raises:
            ModelError: the model is gone.
        """
        model: nn.Module | None = self._model() if self._model is not None else None
        if model is None:
            raise ModelError(
                f"{self.name}: the model is gone, because an Analysis does not keep it alive, nor does a "
                f"pickle or a saved file: give the model or its SPEC in place of the Analysis"
            )
        return model

    @property
    def weighted(self) -> nn.Module | None:
        """The model while it exists with weights of its own; None for a SPEC without a file of weights."""
        made = self._model
        return None if made is None or getattr(made, "weights", "") is None else made()

    def __getstate__(self) -> dict[str, Any]:
        """The fields of the dataclass, without cached properties."""
        return {name: vars(self)[name] for name in self.__dataclass_fields__}

    def __getitem__(self, name: str) -> ModuleCost:
        """The costs of a module by its name in ``named_modules()``; raises SpecError where there is none."""
        row = self.costs.by_name.get(name)
        if row is None:
            near = difflib.get_close_matches(name, self.costs.by_name, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise SpecError(f"{self.name} has no module {name!r}{hint}")
        return row

    @cached_property
    def kernels(self) -> dict[str, str]:
        """The kernels that each module applies itself, by its name: ``3x3/2, groups 32``."""
        from archcost.analysis.kernels import kernels_of

        return kernels_of(self.operations)

    @cached_property
    def input_text(self) -> str:
        """The shapes and dtypes of the inputs as text: ``1x3x224x224 float32``."""
        shapes = [
            f"{'x'.join(map(str, r.shape)) or 'scalar'} {str(r.dtype)[6:]}" for r in refs(self.trace.inputs)
        ]
        return ", ".join(shapes) or "none"

    @cached_property
    def training(self) -> bool:
        """Whether a normalisation or dropout ran in training mode and so unlike in inference."""
        from archcost.trace.mode import training_only

        return bool(training_only(self.trace))

    def __repr__(self) -> str:
        total = self.total
        macs = f"{'>= ' if any(u.macs_unknown for u in self.uncounted) else ''}{total.macs:,} MACs"
        return f"<Analysis of {visible(self.name)}: {total.params:,} params, {macs}; print it for the table>"
