"""The face of the house: analyze, and the Analysis it returns."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from archcost.analysis.reports.analysis import document_of, flat
from archcost.analysis.traced import TracedModel
from archcost.cost.costs import Costs, cost_of
from archcost.errors import ArchcostError, InputError, SpecError
from archcost.report.document import Asked, Document
from archcost.report.result import Result
from archcost.report.saving import load_result
from archcost.trace.graph import Trace

if TYPE_CHECKING:
    import torch
    from torch import nn

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
        model: a module, or a SPEC such as ``"torchvision:resnet50"`` (see `archcost.load`), or a file that
            `Analysis.save` wrote.
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
    if isinstance(model, str) and model.endswith(".json"):
        given = {"inputs": inputs, "input_size": input_size, "dtype": dtype, "weights": weights}
        return _saved(model, [name for name, value in given.items() if value is not None])
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


def _saved(path: str, given: list[str]) -> Analysis:
    """The Analysis that a file holds, which has its inputs."""
    if given:
        raise InputError(
            f"analyze: {path} is an Analysis that has its inputs; leave {' and '.join(given)} out"
        )
    found = load_result(path)
    if not isinstance(found, Analysis):
        raise SpecError(f"{path} holds a {type(found).__name__}, and no Analysis")
    return found


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


class Analysis(TracedModel, Result):
    """A Trace with its Costs. ``print`` it, or take it as pandas, markdown, CSV, JSON, HTML or a dict.

    ``by`` is ``"modules"``, ``"layers"`` or ``"operations"``. Modules hold their children's costs as well,
    and their own operations are in no layer: to add up, take operations. For people repeated blocks are
    folded into one row with their sum, and every level adds up; with ``sort`` or ``top`` a flat list of
    layers stands in place of the tree, and what ``top`` leaves out is summed.

    It can be pickled, as every result can; the model does not go along.
    """

    @classmethod
    def restored(cls, trace: Trace, name: str, notes: tuple[str, ...]) -> Analysis:
        """From what a file has (`archcost.report.saving`): counted anew."""
        return cls(trace, cost_of(trace), name, notes)

    def document(self, asked: Asked) -> Document:
        """The schema is stated in `archcost.analysis.reports.analysis`."""
        return document_of(self, asked)

    def flat(self, depth: int = 0, prefix: str = "") -> dict[str, int | float]:
        """Plain numbers for experiment trackers: ``{"params": 9, "layer1/macs": 8}`` down to ``depth``."""
        return flat(self, depth, prefix)
