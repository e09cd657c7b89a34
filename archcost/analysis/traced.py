"""TracedModel: a Trace with what was counted of it, and what is read off that when first asked for."""

from __future__ import annotations

import difflib
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
    notes: tuple[str, ...] = ()
    """What was assumed or had to be done otherwise, in words."""
    _model: Any = field(default=None, repr=False, metadata={"saved": False})
    """Called, gives the model or None: a weak reference, or for a SPEC a function that builds it."""

    @property
    def total(self) -> Total:
        """The whole model: ``.params``, ``.macs``, ``.flops``, ``.other_ops``, ``.peak_memory_bytes`` ..."""
        return self.costs.total

    @property
    def modules(self) -> tuple[ModuleCost, ...]:
        """Every module, the model itself first, parents before their children."""
        return self.costs.modules

    @property
    def layers(self) -> tuple[ModuleCost, ...]:
        """The modules that hold no others, in order of definition."""
        return tuple(row for row in self.modules if row.is_leaf)

    @property
    def operations(self) -> tuple[OpCost, ...]:
        """Every operation, in the order it ran."""
        return self.costs.ops

    @property
    def uncounted(self) -> tuple[Uncounted, ...]:
        """Operations whose count is unknown, with the module they came from and the reason."""
        return self.costs.uncounted

    @cached_property
    def fields(self) -> Fields:
        """The receptive fields of all modules and of the network, worked out when first asked for."""
        from archcost.fields.fields import Fields

        return Fields(self.trace)

    @property
    def fields_or_none(self) -> Fields | None:
        """`fields`; None where they were lost, which a report says beside what it knows."""
        try:
            return self.fields
        except ArchcostError:
            return None

    @property
    def model(self) -> nn.Module:
        """The model analysed, while it lives: an Analysis does not keep it."""
        model = self._model() if self._model is not None else None
        if model is None:
            raise ModelError(
                f"{self.name}: the model is gone, for an Analysis does not keep it, nor does a pickle: "
                f"keep a reference to it, or analyse it again"
            )
        return model

    def __getstate__(self) -> dict[str, Any]:
        """Without what can be worked out again."""
        return {name: vars(self)[name] for name in self.__dataclass_fields__}

    def __getitem__(self, name: str) -> ModuleCost:
        """The row of one module, by its name in ``named_modules()``."""
        row = self.costs.by_name.get(name)
        if row is None:
            near = difflib.get_close_matches(name, self.costs.by_name, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise SpecError(f"{self.name} has no module {name!r}{hint}")
        return row

    @cached_property
    def input_text(self) -> str:
        """The shapes and dtypes of the inputs, for people: ``1x3x224x224 float32``."""
        shapes = [
            f"{'x'.join(map(str, r.shape)) or 'scalar'} {str(r.dtype)[6:]}" for r in refs(self.trace.inputs)
        ]
        return ", ".join(shapes) or "none"

    @cached_property
    def training(self) -> bool:
        """Whether the pass ran in training mode, and a norm or dropout did there what inference does not."""
        from archcost.trace.mode import training_only

        return bool(training_only(self.trace))

    def __repr__(self) -> str:
        total = self.total
        macs = f"{'>= ' if any(u.macs_unknown for u in self.uncounted) else ''}{total.macs:,} MACs"
        return f"<Analysis of {visible(self.name)}: {total.params:,} params, {macs}; print it for the table>"
