"""The points of `archcost.sweep`: one model counted at many input sizes, batches and dtypes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any, TypeAlias

from archcost.analysis.analysis import Analysis, Forward, analyze, analyze_spec
from archcost.analysis.points import batch_of, dtypes_of, in_dtype, side_of, size_of, with_batch, with_side
from archcost.analysis.reports.sweep import document_of
from archcost.analysis.scaling import shares_of
from archcost.analysis.swept import MEASURES, SweepPoint, SweptModel
from archcost.errors import ArchcostError, InputError
from archcost.progress import Progress
from archcost.report.document import Asked, Document
from archcost.report.result import Result

if TYPE_CHECKING:
    import torch
    from torch import nn

    from archcost.trace.inputs import DTypes, InputSize

Swept: TypeAlias = "nn.Module | str | Callable[[InputSize], nn.Module]"

__all__ = ["MOST_POINTS", "Counter", "Grid", "Sweep", "SweepPoint", "Swept", "Timed", "counted"]

MOST_POINTS = 10_000
"""More points than this are counted only if asked twice."""

Timed: TypeAlias = "Callable[[nn.Module, SweepPoint], SweepPoint]"
"""The function that adds times to a point, given the model that was counted."""


class Sweep(SweptModel, Result):
    """The costs of a model at many input sizes, batches and dtypes, as `archcost.sweep` returns them.

    ``by`` is ``"points"``, ``"growth"`` or ``"shares"``.
    """

    def document(self, asked: Asked) -> Document:
        """The contents to show; `archcost.analysis.reports.sweep` describes the schema of the JSON."""
        return document_of(self, asked)

    def __repr__(self) -> str:
        return f"<Sweep of {self.name}: {len(self.points)} points; print it for the table>"


@dataclass(frozen=True)
class Grid:
    """The points that were asked for, before they are counted."""

    sizes: tuple[InputSize, ...]
    """Input sizes; whole numbers are sides of the model's own input."""
    batches: tuple[int | None, ...]
    dtypes: tuple[str | None, ...]

    @classmethod
    def of(
        cls,
        input_size: InputSize | Iterable[InputSize] | None,
        batch: int | Iterable[int] | None,
        dtype: str | torch.dtype | Iterable[str | torch.dtype] | None,
    ) -> Grid:
        """The points; raises InputError for sizes, batches or dtypes that are none."""
        from archcost.trace.inputs import as_dtype

        single = isinstance(input_size, tuple) and all(isinstance(n, int) for n in input_size)
        many = isinstance(input_size, Iterable) and not single and not isinstance(input_size, (dict, str))
        sizes: tuple[Any, ...] = tuple(input_size) if many else (input_size,)  # type: ignore[arg-type]
        batches = (batch,) if batch is None or isinstance(batch, int) else tuple(batch)
        named = [dtype] if isinstance(dtype, str) or not isinstance(dtype, Iterable) else [*dtype]
        dtypes = tuple(None if one is None else str(as_dtype(one)).removeprefix("torch.") for one in named)
        for what, values in {"input_size": sizes, "batch": batches, "dtype": dtypes}.items():
            if not values:
                raise InputError(f"sweep: {what} is empty; give at least one, or leave it out")
        for number in (*batches, *(one for one in sizes if isinstance(one, int))):
            wrong = isinstance(number, bool) or not isinstance(number, int) or number < 1
            if number is not None and wrong:
                raise InputError(f"sweep: {number!r} is no side or batch; give whole numbers of at least 1")
        return cls(sizes, batches, dtypes)

    def __len__(self) -> int:
        return len(self.sizes) * len(self.batches) * len(self.dtypes)

    def __iter__(self) -> Iterator[tuple[InputSize, int | None, str | None]]:
        """Size, batch and dtype of each point; the size varies fastest."""
        for dtype, batch, size in product(self.dtypes, self.batches, self.sizes):
            yield size, batch, dtype


def counted(model: Swept, grid: Grid, yes: bool, progress: bool | None, timed: Timed | None = None) -> Sweep:
    """Count a model at every point of the grid.

    Raises:
        InputError: the grid has more than `MOST_POINTS` points and ``yes`` is not given; or the model runs
            at none of them.
    """
    what = Counter(model)
    points: list[SweepPoint] = []
    with Progress(len(grid), f"counting {what.name}", progress) as bar:
        for size, batch, dtype in grid:
            start = time.perf_counter()
            found, counted = what.point(size, batch, dtype)
            if timed is not None and counted is not None:
                found = timed(counted, found)
            points.append(found)
            bar.step()
            if len(points) == 2 and len(grid) > MOST_POINTS and not yes:  # the first builds and imports
                minutes = len(grid) * (time.perf_counter() - start) / 60
                raise InputError(
                    f"sweep: {len(grid):,} points take about {minutes:,.0f} minutes; give fewer, or yes=True"
                )
    if all(one.reason is not None for one in points):
        raise InputError(f"sweep: {what.name} runs at no point; first: {points[0].reason}")
    notes = dict.fromkeys(note for one in points for note in one.notes)
    return Sweep(what.name, tuple(points), notes=(*what.notes, *notes))


class Counter:
    """A model that is counted again and again: as given, from a SPEC, or made anew for each size."""

    def __init__(self, model: Swept, dtype: DTypes | None = None) -> None:
        from torch import nn

        self.given, self.input_dtypes = model, dtype
        self.model: nn.Module | None = model if isinstance(model, nn.Module) else None
        self.name = model if isinstance(model, str) else getattr(model, "__name__", type(model).__name__)
        self.base: Analysis | None = None
        self.notes: tuple[str, ...] = ()
        self.in_dtype: dict[str, nn.Module] = {}
        if not isinstance(model, (nn.Module, str)) and not callable(model):
            raise InputError(f"sweep: {model!r} is no model, SPEC or function that makes a model for a size")

    def point(
        self, size: InputSize | None, batch: int | None, dtype: str | None
    ) -> tuple[SweepPoint, nn.Module | None]:
        """The point, and the model that was counted; a size that the model refuses is a point as well."""
        if isinstance(size, int):
            size = with_side(self.own_size(), size)
        elif size is None:
            size = self.own_size()
        if batch is not None:
            size = with_batch(size, batch)
        at: dict[str, Any] = {
            "input_size": size,
            "side": side_of(size),
            "batch": batch_of(size),
            "dtype": dtype or "",
        }
        try:
            found, model = self.counted(size, dtype)
        except ArchcostError as error:
            return SweepPoint(**at, reason=" ".join(str(error).split())), None
        return _point(found, at), model

    def own_size(self) -> InputSize:
        """The input size that the model itself suggests."""
        if self.base is None:
            if not isinstance(self.given, str) and self.model is None:
                raise InputError("sweep: a function makes a model for a size; give every input_size in full")
            if self.model is None:
                assert isinstance(self.given, str)
                self.base, self.model = analyze_spec(self.given, None, None, None, self._quiet())
            else:
                self.base = analyze(self.model, progress=False)
            self.name = self.base.name
        return size_of(self.base.trace, "sweep")

    def counted(self, size: InputSize, dtype: str | None) -> tuple[Analysis, nn.Module]:
        if self.model is None and isinstance(self.given, str):
            try:
                found, self.model = analyze_spec(self.given, None, size, None, self._quiet())
                if dtype is None:
                    return found, self.model
            except InputError:  # perhaps only of this size
                from archcost.models.specs import load

                self.model = load(self.given, without_values=True).model
        model = self.model
        if model is None:
            assert callable(self.given)
            model = self.given(size)
        try:
            return self._analyzed(model, size, dtype)
        except InputError:
            other = self._built_for(size)
            if other is None:
                raise
            return self._analyzed(other, size, dtype)

    def _built_for(self, size: InputSize) -> nn.Module | None:
        """The model of the SPEC built anew for a side, as vision transformers have to be."""
        from archcost.models.specs import load_for

        if not isinstance(self.given, str):
            return None
        found = load_for(self.given, round(side_of(size)))
        if found is not None:
            self.notes = ("a size that the model as built refuses is counted on one built for it",)
        return found

    def _analyzed(self, model: nn.Module, size: InputSize, dtype: str | None) -> tuple[Analysis, nn.Module]:
        import torch

        inputs = self.input_dtypes
        if inputs is None and self.base is not None:
            inputs = dtypes_of(self.base.trace)
        kind = None if dtype is None else getattr(torch, dtype)
        if kind is not None and not kind.is_floating_point:
            inputs = kind
        elif kind is not None:
            known = self.in_dtype.get(str(dtype)) if model is self.model else None
            converted = in_dtype(model, kind) if known is None else known
            if model is self.model:
                self.in_dtype[str(dtype)] = converted
            model = converted
        return analyze(model, input_size=size, dtype=inputs, progress=False), model

    def _quiet(self) -> Forward:
        return {"dtype": self.input_dtypes, "device": None, "progress": False}


def _point(found: Analysis, at: dict[str, Any]) -> SweepPoint:
    total = found.total
    floats = {str(op.outputs[0].dtype) for op in found.trace.ops if op.outputs}
    named = at["dtype"] or next((one for one in sorted(floats) if "float" in one), "").removeprefix("torch.")
    measures = {name: getattr(total, name) for name in (*MEASURES[:-1], "param_bytes", "uncounted")}
    notes = tuple(note for note in found.notes if "assumed" not in note and "input size" not in note)
    return SweepPoint(
        **{**at, "dtype": named},
        **measures,
        input_text=found.input_text,
        shares=shares_of(found),
        notes=notes,
    )
