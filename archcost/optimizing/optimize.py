"""optimize: the best model within a budget, its weights carried over, and the outputs held to account."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from torch import Tensor, nn

from archcost.analysis.analysis import analyze
from archcost.analysis.budget import Budget
from archcost.errors import InputError, ModelError, RewriteError
from archcost.optimizing.blocks import merged
from archcost.optimizing.calibration import Calibration
from archcost.optimizing.candidates import RULES
from archcost.optimizing.data import data_of
from archcost.optimizing.deployed import Deployed
from archcost.optimizing.finishing import finished
from archcost.optimizing.folding import folded
from archcost.optimizing.making import Making
from archcost.optimizing.optimized import Optimized
from archcost.optimizing.outcome import outcome
from archcost.optimizing.stages import Carried, Task
from archcost.optimizing.statistics import CEILING
from archcost.optimizing.untrained import untrained
from archcost.report.units import percent_text
from archcost.trace.call import Call, Inputs, like_traced
from archcost.trace.modules import as_written, check_model, check_values

if TYPE_CHECKING:
    from archcost.surgery.sites import Hooks
    from archcost.trace.inputs import InputSize

_USELESS = 0.5
"""The share of held-out outputs that may change where nobody says how many, or their relative error."""

__all__ = ["Batches", "optimize", "task_of"]

Batches: TypeAlias = "Iterable[Inputs] | Tensor | Calibration | str | os.PathLike[str] | None"
"""Calibration data as `optimize` takes it."""


def optimize(
    model: nn.Module,
    inputs: Inputs = None,
    *,
    budget: Budget | Mapping[str, Any] | float | None = None,
    batches: Batches = None,
    max_error: float | None = None,
    evaluate: Callable[[nn.Module], float] | None = None,
    rules: Sequence[str] | None = None,
    exclude: Iterable[str] = (),
    merge: bool = True,
    refit: bool = True,
    distill: bool | None = None,
    trials: int = 12,
    accelerate: bool = False,
    hooks: Hooks = "refuse",
    random_weights: bool = False,
    memory: int = CEILING,
    input_size: InputSize | None = None,
    progress: bool | None = None,
) -> Optimized:
    """The best model within a budget that archcost can make of a trained one, without labels.

    >>> small = archcost.optimize(model, images[:1], budget=archcost.Budget(macs=0.5), batches=images) \
    # doctest: +SKIP

    Every convolution and linear layer may become a cheaper chain of two or three, of a rank on a fine grid,
    and two convolutions or linear layers in a row may have fewer channels between them.
    One candidate at most is chosen for each layer, by a multiple-choice knapsack over the errors that the
    spectra of the layers under the covariance of their inputs predict, weighted by how far the model's
    outputs respond to them. Weights come in closed form; then every layer, those that stay included, is
    refitted in order to the old model's outputs. A few selections under different models of the error are
    carried out, and the one whose outputs move least on held-out inputs is kept, and fitted to all inputs.

    Args:
        model: on the CPU or a GPU, with trained weights; it ends unchanged.
        inputs, input_size: as in `archcost.analyze`: the size that costs are counted for.
        budget: the most that the result may cost: shares of the whole model up to 1, else numbers;
            ``Budget(macs=0.5, params="4M")``, a mapping, or a share of the MACs. ``flash`` and ``sram`` are
            those of `archcost.footprint` in the budget's dtypes.
        batches: unlabelled inputs, each batch as the model takes it; a tensor is one batch. Some hundred are
            enough; every fourth is held out. Or a `Calibration`, or the path of its file. None: from the
            weights alone, without refit or check.
        max_error: the most that outputs may move, as ``Budget(error=...)``: the share of held-out outputs
            that change their largest class or, without classes, their relative error. Without another limit
            the fewest MACs are looked for. By default half of them, from where a model is of no use.
        evaluate: your own metric of a model, larger is better; it decides between selections.
        rules: names of the rules to choose from; by default ``bottleneck``, ``asymmetric``, ``separable``,
            ``narrow`` (fewer channels between two convolutions or linear layers, with data) and ``low_rank``
            (of linear layers).
        exclude: names or patterns of layers that stay as they are.
        merge: first merge modules that sum branches of convolutions (RepVGG, MobileOne) into single ones,
            exactly.
        refit: fit all layers to the old model's outputs.
        distill: train the result on the old model's outputs and features, as `archcost.recover` does, and
            keep that where held-out outputs then move less; by default where it takes some 20 seconds at
            most, and outputs diverge by 0.01 or more.
        trials: the most selections to compare; four of them at most are refitted.
        accelerate: run `archcost.accelerate` on the result.
        hooks: as in `archcost.rewrite`.
        random_weights: go on where the weights seem untrained.
        memory: most bytes of covariances held at once.
        progress: draw a progress bar on stderr; by default on a terminal.

    Returns:
        The new model with its plan, the comparison, and what was traded. Ctrl-C while selections are carried
        out gives back the best so far.

    Raises:
        InputError: an argument is not valid, or the inputs do not fit the model.
        ModelError: the model cannot be traced, is compiled, has no values, or seems untrained.
        RewriteError: the budget cannot be kept; the message says the least reachable, and what blocks it, or
            how far the outputs move, and which layers lose most.
        SpecError: an unknown rule or layer.
    """
    asked = _budget(budget, max_error)
    task = task_of(
        model, inputs, batches, hooks, random_weights, input_size, exclude, rules, memory, progress, merge
    )
    deployed = None if asked.flash is None and asked.sram is None else Deployed(task, asked)
    planned = task.planned(asked.latency is not None)
    if deployed is not None:
        planned = deployed.limited(planned)
    made = Making(task, planned, evaluate, refit, trials)
    if asked.error is not None:
        best, all_, limits = made.within_error(asked)
    else:
        limits = planned.limits(asked)
        best, all_ = made.within(limits)
    best = finished(task, best, evaluate, refit, distill)
    if asked.error is None and evaluate is None and not random_weights:
        _refuse_useless(best)
    all_ = [best, *(one for one in all_ if one.trial.label != best.trial.label)]
    found = outcome(task, best, all_, limits, accelerate, evaluate)
    return found if deployed is None else deployed.told(found)


def _refuse_useless(best: Carried) -> None:
    """Raise where held-out outputs have moved so far that nobody can use the model."""
    moved = best.trial.moved
    if moved is None or best.error <= _USELESS:
        return
    said = f"moved by {moved.error:.2g} of their size"
    if moved.agreement is not None:
        said = f"keep their class in {percent_text(100 * moved.agreement)} % only"
    lost = sorted(best.selection.candidates, key=lambda one: -one.error)[:3]
    named = ", ".join(f"{one.name} ({percent_text(100 * one.error**0.5)} %)" for one in lost)
    raise RewriteError(
        f"optimize: the budget cannot be kept: held-out outputs {said}. No cheaper form of the layers is "
        f"close enough; the largest errors are in the outputs of {named}. Give a larger budget, more batches "
        f"or distill=True; or max_error=1 (--budget error=1) to have it as it is"
    )


def _budget(given: Budget | Mapping[str, Any] | float | None, max_error: float | None = None) -> Budget:
    if isinstance(given, Budget):
        found = given
    elif isinstance(given, Mapping):
        found = Budget.of(given, "budget: ")
    elif given is None and max_error is None:
        raise InputError("optimize: give a budget, such as Budget(macs=0.5), or max_error")
    else:
        found = Budget(macs=given)
    return found if max_error is None else replace(found, error=max_error)


def task_of(
    model: nn.Module,
    inputs: Inputs,
    batches: Batches,
    hooks: Hooks,
    random_weights: bool,
    input_size: InputSize | None,
    exclude: Iterable[str],
    rules: Sequence[str] | None,
    ceiling: int,
    progress: bool | None,
    merge: bool = True,
) -> Task:
    check_model(model, InputError, "optimize: ")
    if as_written(model) is not model:
        raise ModelError("optimize: the model is compiled: optimize model._orig_mod, and compile the result")
    check_values(model, "optimize")
    if hooks not in ("refuse", "keep"):
        raise InputError(f"optimize: hooks is {hooks!r}; it takes 'refuse' or 'keep'")
    why = None if random_weights else untrained(model)
    if why is not None:
        raise ModelError(
            f"optimize: the weights seem untrained: {why}. Errors mean nothing there; load trained "
            f"weights, or give random_weights=True"
        )
    wanted = _rules(rules)
    calibration = None
    if isinstance(batches, (str, os.PathLike)):
        calibration = Calibration.read(batches)
    elif isinstance(batches, Calibration):
        calibration = batches
    if calibration is not None:
        batches = calibration.inputs
    data = None if batches is None else data_of(cast("Iterable[Inputs]", batches))
    if inputs is None and input_size is None and data is not None:
        first = data.fitted[0]
        inputs = first[:1] if isinstance(first, Tensor) else first
    analysis = analyze(model, inputs, input_size=input_size, progress=progress)
    call = like_traced(analysis.trace) if inputs is None else Call.of(inputs)
    first = merged(analysis, call, hooks, exclude, merge)
    planned = folded(first.survey, exclude)
    return Task(planned, analysis, first, call, data, wanted, calibration, ceiling, hooks, progress)


def _rules(rules: Sequence[str] | None) -> tuple[str, ...]:
    if rules is None:
        return RULES
    given = (rules,) if isinstance(rules, str) else tuple(rules)
    for name in given:
        if name not in RULES:
            raise InputError(f"optimize: rules has {name!r}; it plans {', '.join(RULES)}")
    if not given:
        raise InputError("optimize: rules is empty; leave it out for all")
    return given
