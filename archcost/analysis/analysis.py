"""`analyze`, which counts the cost of every layer of a model, and the Analysis it returns."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, TypedDict

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
    from typing_extensions import Unpack

    from archcost.trace.inputs import DTypes, Inputs, InputSize

__all__ = ["Analysis", "Forward", "analysis_of", "analyze", "analyze_spec"]


class Wanted(TypedDict, total=False):
    """Options of `analyze` for the forward pass, beside its inputs."""

    input_size: InputSize | None
    dtype: DTypes | None
    device: str | torch.device | None


class Forward(TypedDict):
    """Options of `analyze_spec` for the forward pass."""

    dtype: DTypes | None
    device: str | torch.device | None
    progress: bool | None


def analyze(
    model: nn.Module | str,
    inputs: Inputs = None,
    *,
    input_size: InputSize | None = None,
    dtype: DTypes | None = None,
    device: str | torch.device | None = None,
    weights: str | None = None,
    progress: bool | None = None,
) -> Analysis:
    """Count the cost of every layer of a model: parameters, MACs, memory, receptive field.

    The model is traced by a forward pass on the device `meta`, which computes nothing; it comes back
    untouched.

    Args:
        model: a module, a SPEC such as ``"torchvision:resnet50"`` (see `archcost.load`), or a file that
            `Analysis.save` wrote.
        inputs: arguments of the model: a tuple is positional arguments, a dict is keyword arguments, anything
            else is the only argument. By default they are made for ``input_size``, or for an input size that
            the model itself suggests; the ``notes`` of the result say what was assumed.
        input_size: the shape of the input, batch included, such as ``(1, 3, 224, 224)``; for several inputs a
            list of shapes, or a dict of shapes by argument name.
        dtype: the dtype of the inputs made for ``input_size``, or a dtype for each of them; by default that
            of the model. A floating-point dtype also becomes that of the weights of a model from a SPEC.
        device: the device of the forward pass. By default `meta`, or the model's own device if its code
            needs real values. On another device the model runs on copies of the weights.
        weights: with a SPEC, the file of a state dict.
        progress: whether to draw a progress bar on stderr for waits over a second; by default on a terminal.

    Returns:
        The counts by module, layer and operation; ``print`` it for the table.

    Raises:
        InputError: the inputs do not fit; the message names the module, what it got and what it expects.
        ModelError: the model cannot be traced (lazy, cyclic, its own forward fails).
        SpecError: the SPEC names nothing that can be loaded.

        Where a forward pass failed, the ``partial`` of the error is the Analysis up to there.
    """
    options: Forward = {"dtype": dtype, "device": device, "progress": progress}
    if isinstance(model, str) and model.endswith(".json"):
        given = {"inputs": inputs, "input_size": input_size, "dtype": dtype, "weights": weights}
        return _saved(model, [name for name, value in given.items() if value is not None])
    if isinstance(model, str):
        return analyze_spec(model, inputs, input_size, weights, options)[0]
    if weights is not None:
        raise SpecError("analyze: weights goes with a SPEC; load the state dict into the module yourself")
    from archcost.trace.hints import traced
    from archcost.trace.mode import mode_note
    from archcost.trace.state import paused_gc

    with paused_gc(), _with_partial():
        trace = traced(model, inputs, input_size=input_size, **options)
        costs = cost_of(trace)
        notes = (*mode_note(trace, model), *_notes(trace, costs))
        return Analysis(trace, costs, trace.model_name, notes, _WeakModel(model))


def analysis_of(
    what: str,
    model: nn.Module | str | Analysis,
    inputs: Inputs = None,
    *,
    progress: bool | None = False,
    **more: Unpack[Wanted],
) -> Analysis:
    """The Analysis of a model; an Analysis is returned as it is.

    Args:
        what: the name of the calling function, for messages.
        model: a module, a SPEC or an Analysis.
        inputs: as in `analyze`.
        progress: as in `analyze`.
        more: ``input_size``, ``dtype`` and ``device``, as in `analyze`.

    Raises:
        InputError: inputs are given for an Analysis, which has its own.
    """
    if not isinstance(model, Analysis):
        return analyze(model, inputs, progress=progress, **more)
    unused = [name for name, value in {"inputs": inputs, **more}.items() if value is not None]
    if isinstance(inputs, str):
        raise InputError(f"{what}: an Analysis has its inputs; name the layer with layer={inputs!r}")
    if unused:
        raise InputError(
            f"{what}: an Analysis has its inputs; leave {' and '.join(unused)} out, or give the model "
            f"instead of its Analysis"
        )
    return model


def analyze_spec(
    spec: str, inputs: Inputs, input_size: InputSize | None, weights: str | None, options: Forward
) -> tuple[Analysis, nn.Module]:
    """The Analysis of the model that a SPEC names, and the model that was traced.

    The model is built without weight values first, which is instant at any size; with values only where its
    code needs them.
    """
    from archcost.models.specs import load
    from archcost.progress import Progress
    from archcost.trace.inputs import floating

    # A floating-point dtype becomes the model's too: inputs of another dtype would not fit its weights.
    floats = floating(options["dtype"]) if inputs is None else None
    for without_values in (options["device"] is None, False):
        with Progress(1, f"building {spec}", options["progress"]):
            from archcost.trace.hints import traced  # imports torch, which is part of the wait

            loaded = load(spec, weights=weights, without_values=without_values, dtype=floats)
            if floats is not None and any(p.dtype == floats for p in loaded.model.parameters()):
                options["dtype"] = None
        assumes = inputs is None and input_size is None and loaded.input_size is not None
        size = loaded.input_size if assumes else input_size
        try:
            with _with_partial(loaded.spec):
                trace = traced(loaded.model, inputs, input_size=size, **options)
            break
        except ArchcostError:
            if not loaded.without_values:
                raise
    costs = cost_of(trace)
    notes = (*([loaded.assumed] if assumes else []), *_notes(trace, costs))
    found = Analysis(trace, costs, loaded.spec, notes, _SpecModel(spec, weights, floats))
    return found, loaded.model


def _saved(path: str, given: list[str]) -> Analysis:
    """The Analysis in a file; raises InputError for options that it would ignore."""
    if given:
        raise InputError(
            f"analyze: {path} holds an Analysis with its inputs; leave {' and '.join(given)} out"
        )
    found = load_result(path)
    if not isinstance(found, Analysis):
        raise SpecError(
            f"analyze: {path} holds a {type(found).__name__}, not an Analysis; archcost.load_result reads it"
        )
    return found


def _notes(trace: Trace, costs: Costs) -> tuple[str, ...]:
    """The notes of the trace and of the counts, and those on plugins that could not be loaded."""
    from archcost.fields.registry import table

    return (*trace.notes, *costs.notes, *table.notes)


@contextlib.contextmanager
def _with_partial(name: str | None = None) -> Iterator[None]:
    """A context whose errors hold the Analysis up to the operation that failed."""
    try:
        yield
    except ArchcostError as error:
        if error.trace is not None:
            error.partial = Analysis(
                error.trace, cost_of(error.trace), name or error.trace.model_name, error.trace.notes
            )
        raise


class _WeakModel:
    """A weak reference to the model; empty in a pickle."""

    def __init__(self, model: nn.Module) -> None:
        self._model = weakref.ref(model)

    def __call__(self) -> nn.Module | None:
        return self._model()

    def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
        return _gone, ()

    def __deepcopy__(self, memo: Mapping[int, object]) -> _WeakModel:
        return self


def _gone() -> None:
    return None


@dataclass
class _SpecModel:
    """The model that a SPEC names, built with values on first use: the one analysed may have none."""

    spec: str
    weights: str | None
    dtype: torch.dtype | None

    @cached_property
    def _model(self) -> nn.Module:
        from archcost.models.specs import load

        return load(self.spec, weights=self.weights, dtype=self.dtype).model

    def __call__(self) -> nn.Module:
        return self._model

    def __reduce__(
        self,
    ) -> tuple[type[_SpecModel], tuple[str, str | None, torch.dtype | None]]:
        return _SpecModel, (self.spec, self.weights, self.dtype)


class Analysis(TracedModel, Result):
    """The counted costs and receptive fields of a model, as `analyze` returns them.

    ``print`` it for a table, or take it as pandas, markdown, CSV, JSON, HTML or a dict. ``by`` is
    ``"modules"``, ``"layers"`` or ``"operations"``. The costs of a module include those of its children;
    operations that a module runs itself belong to no layer, so only operations add up to the total. The table
    for people folds repeated blocks into a single row with their sum, and adds up at every level; with
    ``sort`` or ``top`` it is a list of layers, and the rows that ``top`` leaves out are summed in one row.

    An Analysis can be pickled, as every result can; the model is not part of the pickle.
    """

    @property
    def random_weights(self) -> bool:
        """Whether the model came from torchvision or timm by its SPEC, without a file of weights."""
        made = self._model
        if not isinstance(made, _SpecModel) or made.weights is not None:
            return False
        return made.spec.startswith(("torchvision:", "timm:"))

    @classmethod
    def restored(cls, trace: Trace, name: str, notes: tuple[str, ...]) -> Analysis:
        """An Analysis read from a file (`archcost.report.saving`), its trace counted again."""
        return cls(trace, cost_of(trace), name, notes)

    def document(self, asked: Asked) -> Document:
        """The contents to show; `archcost.analysis.reports.analysis` describes the schema of the JSON."""
        return document_of(self, asked)

    def flat(self, depth: int = 0, prefix: str = "") -> dict[str, int | float]:
        """Numbers for experiment trackers: ``{"params": 9, "layer1/macs": 8}``.

        Args:
            depth: levels of modules; 0 is the whole model alone.
            prefix: put before every name, with a ``/`` between.
        """
        return flat(self, depth, prefix)
