"""The face of the house: analyze, and the Analysis it returns."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from archcost.cost.costs import Costs, ModuleCost, OpCost, Total, Uncounted, cost_of
from archcost.errors import ArchcostError, InputError, ModelError, SpecError
from archcost.trace.graph import Trace

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from rich.text import Text
    from torch import nn

    from archcost.fields.fields import Fields
    from archcost.report.frames import Path
    from archcost.report.table import Depth

__all__ = ["Analysis", "analysis_of", "analyze"]


def analyze(
    model: nn.Module | str,
    inputs: Any = None,
    *,
    input_size: Any = None,
    dtype: Any = None,
    device: str | torch.device | None = None,
    weights: str | None = None,
    progress: bool | None = None,
) -> Analysis:
    """What every layer of ``model`` costs: one pass on `meta`, nothing computed, the model untouched.

    Args:
        model: a module, or a SPEC such as ``"torchvision:resnet50"`` (see `archcost.load`).
        inputs: a tuple is positional arguments, a dict is keyword arguments, anything else is the one
            argument. Left out, ``input_size`` decides, or what the model says of itself; the result's
            ``notes`` say what was assumed.
        input_size: the shape of the input, batch included, as in ``(1, 3, 224, 224)``; a list of shapes
            for several inputs, a dict of them by argument name.
        dtype: of the inputs made for ``input_size``; by default the model's own. One, or one for each. A
            model that a SPEC names takes the one dtype as well, if it is a floating-point one.
        device: where the pass runs. By default ``"meta"``, and the model's own device when its code needs
            real values; naming another runs it there, on copies of the weights.
        progress: draw a progress bar on stderr for waits over a second; by default on a terminal.

    Raises:
        InputError: the inputs do not fit; the message names the module, what it got and what it expects.
        ModelError: the model cannot be traced (lazy, cyclic, its own forward fails).
        SpecError: the SPEC names nothing that can be loaded.
    """
    options = {"dtype": dtype, "device": device, "progress": progress}
    if isinstance(model, str):
        return _analyze_spec(model, inputs, input_size, weights, options)
    if weights is not None:
        raise SpecError("weights goes with a SPEC; load the state dict of a module before you analyse it")
    from archcost.trace.hints import traced
    from archcost.trace.mode import mode_note
    from archcost.trace.state import paused_gc

    with paused_gc():
        trace = traced(model, inputs, input_size=input_size, **options)
        costs = cost_of(trace)
        notes = (*mode_note(trace, model), *_notes(trace, costs))
        return Analysis(trace, costs, trace.model_name, notes, _Alive(model))


def analysis_of(
    what: str,
    model: nn.Module | str | Analysis,
    inputs: Any = None,
    *,
    progress: bool | None = False,
    **more: Any,
) -> Analysis:
    """The Analysis of a model; or the one that was given, which takes no inputs that would not be used.

    Args:
        what: the function that was called, for the message.
        more: ``input_size``, ``dtype`` and ``device``, as in `analyze`.
    """
    if not isinstance(model, Analysis):
        return analyze(model, inputs, progress=progress, **more)
    unused = [name for name, value in {"inputs": inputs, **more}.items() if value is not None]
    if isinstance(inputs, str):
        raise InputError(f"{what}: an Analysis has its inputs; name the layer with layer={inputs!r}")
    if unused:
        raise InputError(
            f"{what}: an Analysis has its inputs; leave {' and '.join(unused)} out, or give the model in "
            f"place of its Analysis"
        )
    return model


def _analyze_spec(
    spec: str, inputs: Any, input_size: Any, weights: str | None, options: dict[str, Any]
) -> Analysis:
    """Without values first, which builds a model of any size at once; with them where its code needs some."""
    from archcost.models.specs import load
    from archcost.progress import Progress
    from archcost.trace.inputs import floating

    # One floating-point dtype is the model's too, since inputs of another could not meet its weights.
    floats = floating(options["dtype"]) if inputs is None else None
    for without_values in (options["device"] is None, False):
        with Progress(1, f"building {spec}", options["progress"]):
            from archcost.trace.hints import traced  # the first import of torch is part of the wait

            loaded = load(spec, weights=weights, without_values=without_values, dtype=floats)
            if floats is not None and any(p.dtype == floats for p in loaded.model.parameters()):
                options["dtype"] = None
        assumes = inputs is None and input_size is None and loaded.input_size is not None
        size = loaded.input_size if assumes else input_size
        try:
            trace = traced(loaded.model, inputs, input_size=size, **options)
            break
        except ArchcostError:
            if not loaded.without_values:
                raise
    costs = cost_of(trace)
    notes = (*([loaded.assumed] if assumes else []), *_notes(trace, costs))
    return Analysis(trace, costs, loaded.spec, notes, _Named(spec, weights, floats))


def _notes(trace: Trace, costs: Costs) -> tuple[str, ...]:
    """Those of the pass and of the counts, and the dependence rules that could not be loaded."""
    from archcost.fields.registry import table

    return (*trace.notes, *costs.notes, *table.notes)


class _Alive:
    """The model while it lives; a pickle, which outlives it, has none."""

    def __init__(self, model: nn.Module) -> None:
        self._model = weakref.ref(model)

    def __call__(self) -> nn.Module | None:
        return self._model()

    def __reduce__(self) -> tuple[Any, ...]:
        return _gone, ()

    def __deepcopy__(self, memo: dict[int, Any]) -> _Alive:
        return self


def _gone() -> None:
    return None


@dataclass
class _Named:
    """The model that a SPEC names, built when first asked for: what was analysed has no values to run on."""

    spec: str
    weights: str | None
    dtype: torch.dtype | None

    @cached_property
    def _model(self) -> nn.Module:
        from archcost.models.specs import load

        return load(self.spec, weights=self.weights, dtype=self.dtype).model

    def __call__(self) -> nn.Module:
        return self._model

    def __reduce__(self) -> tuple[Any, ...]:
        return _Named, (self.spec, self.weights, self.dtype)


@dataclass(frozen=True)
class Analysis:
    """A Trace with its Costs. ``print`` it, or take it as pandas, markdown, CSV, JSON, HTML or a dict.

    It can be pickled, as every result can; the model does not go along.
    """

    trace: Trace
    costs: Costs
    name: str
    notes: tuple[str, ...] = ()
    """What was assumed or had to be done otherwise, in words."""
    _model: Any = field(default=None, repr=False)
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
            import difflib

            near = difflib.get_close_matches(name, self.costs.by_name, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise SpecError(f"{self.name} has no module {name!r}{hint}")
        return row

    @cached_property
    def input_text(self) -> str:
        """The shapes and dtypes of the inputs, for people: ``1x3x224x224 float32``."""
        from archcost.trace.graph import refs

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
        from archcost.report.text import visible

        total = self.total
        macs = f"{'>= ' if any(u.macs_unknown for u in self.uncounted) else ''}{total.macs:,} MACs"
        return f"<Analysis of {visible(self.name)}: {total.params:,} params, {macs}; print it for the table>"

    def __str__(self) -> str:
        from archcost.report.table import printed

        return printed(self)

    def __rich__(self) -> Text:
        from rich.text import Text

        return Text(self.to_text())

    def _repr_html_(self) -> str:
        return self.to_html()

    def table(
        self,
        depth: Depth = "auto",
        sort: str | None = None,
        columns: Iterable[str] | None = None,
        top: int | None = None,
        width: int | None = None,
    ) -> None:
        """Print the table: in colour and within the width on a terminal, plain and uncut in a pipe.

        Args:
            depth: levels of the tree, 0 for the total alone, None for all; ``"auto"`` is 3. Repeated
                blocks are folded into one row with their sum, and every level adds up.
            sort: a column, largest first. With ``sort`` or ``top`` a flat list of layers by their full
                names stands in place of the tree, and ``depth`` is by default all of them.
            columns: their names, as in ``to_pandas()``, in place of those that suit most.
            top: how many of the largest to show, by MACs if ``sort`` says nothing; the others are summed.
            width: in characters; by default the terminal's, and none in a pipe.

        Raises:
            SpecError: an option has no such value; the message names close ones.
        """
        from archcost.report.table import draw

        draw(self, depth=depth, sort=sort, columns=columns, top=top, width=width)

    def to_text(
        self,
        depth: Depth = "auto",
        sort: str | None = None,
        columns: Iterable[str] | None = None,
        top: int | None = None,
        width: int | None = None,
    ) -> str:
        """The table as plain text; the options of `table`, and uncut unless ``width`` is given."""
        from archcost.report.table import text_of

        return text_of(self, depth=depth, sort=sort, columns=columns, top=top, width=width)

    def to_pandas(
        self,
        by: str = "modules",
        depth: int | None = None,
        sort: str | None = None,
        columns: Iterable[str] | None = None,
        top: int | None = None,
    ) -> pd.DataFrame:
        """One row for each of ``by``: ``"modules"``, ``"layers"`` or ``"operations"``.

        Modules hold their children's costs as well, and their own operations are in no layer: to add up,
        take operations.

        Args:
            by: what a row is.
            depth: keep levels down to this one; 0 is the model alone, None everything.
            sort: a column, largest first (text from A to Z).
            columns: their names, in that order; by default every column.
            top: keep the largest by ``sort``, or by ``macs``.
        """
        from archcost.report.frames import to_pandas

        return to_pandas(self, by, depth, sort, columns, top)

    def to_csv(
        self,
        path: Path | None = None,
        by: str = "modules",
        depth: int | None = None,
        sort: str | None = None,
        columns: Iterable[str] | None = None,
        top: int | None = None,
    ) -> str | None:
        """`to_pandas` as CSV, into a file or returned; what looks like a formula gets a leading ``'``."""
        from archcost.report.frames import to_csv

        return to_csv(self, path, by, depth, sort, columns, top)

    def to_markdown(
        self,
        by: str = "modules",
        depth: int | None = None,
        sort: str | None = None,
        columns: Iterable[str] | None = None,
        top: int | None = None,
    ) -> str:
        """A markdown table for people; the options of `to_pandas`, by default the columns of `table`."""
        from archcost.report.frames import to_markdown

        return to_markdown(self, by, depth, sort, columns, top)

    def to_json(
        self,
        path: Path | None = None,
        indent: int | None = 2,
        operations: bool = False,
        depth: int | None = None,
        sort: str | None = None,
        columns: Iterable[str] | None = None,
        top: int | None = None,
    ) -> str | None:
        """Strict JSON, into a file or returned; its schema is stated in `archcost.report.records`.

        ``depth``, ``sort``, ``columns`` and ``top`` as in `table`, but that all is there unasked. They are
        of the operations where those are asked for.
        """
        from archcost.report.records import to_json

        return to_json(self, path, indent, operations, depth=depth, sort=sort, columns=columns, top=top)

    def to_html(
        self,
        depth: Depth = "auto",
        sort: str | None = None,
        columns: Iterable[str] | None = None,
        top: int | None = None,
    ) -> str:
        """The table as HTML that needs nothing else; the options of `table`."""
        from archcost.report.markup import to_html

        return to_html(self, depth=depth, sort=sort, columns=columns, top=top)

    def flat(self, depth: int = 0, prefix: str = "") -> dict[str, int | float]:
        """Plain numbers for experiment trackers: ``{"params": 9, "layer1/macs": 8}`` down to ``depth``."""
        from archcost.report.records import flat

        return flat(self, depth, prefix)
