"""assert_cost: a budget held in a test, with what to look at where it breaks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from archcost.analysis.analysis import Analysis, analysis_of
from archcost.analysis.budget import Breach, Budget, Limit
from archcost.errors import CostError, InputError
from archcost.integrations.baseline import Record, explained
from archcost.report.text import visible

if TYPE_CHECKING:
    from torch import nn

    from archcost.trace.inputs import DTypes, Inputs, InputSize

__all__ = ["assert_cost", "broken", "message"]


def assert_cost(
    model: nn.Module | str | Analysis,
    inputs: Inputs = None,
    *,
    input_size: InputSize | None = None,
    dtype: DTypes | None = None,
    max_params: Limit | None = None,
    max_macs: Limit | None = None,
    max_flops: Limit | None = None,
    max_peak_memory: Limit | None = None,
    max_kept_for_backward: Limit | None = None,
    max_depth: Limit | None = None,
    min_receptive_field: Limit | Sequence[Limit] | None = None,
    max_latency_ratio: Limit | None = None,
    flash: Limit | None = None,
    sram: Limit | None = None,
    weights_dtype: str | None = None,
    activations_dtype: str | None = None,
    reference: nn.Module | str | None = None,
    seconds: float = 10.0,
) -> Analysis:
    """Raise CostError where a model costs more than a budget allows.

    All but the latency is counted, without computing, and is the same on every machine.

    Args:
        model, inputs, input_size, dtype: as in `archcost.analyze`.
        max_params: most parameters: ``"26M"`` or a number.
        max_macs: most multiply-accumulates of a forward pass: ``"4.2G"``.
        max_flops: most floating-point operations in the MACs, 2 each.
        max_peak_memory: most bytes of activations alive at once in inference: ``"12 MB"``.
        max_kept_for_backward: most bytes of activations that autograd saves for the backward pass.
        max_depth: most weighted layers on the longest path.
        min_receptive_field: fewest input pixels that a position of the last feature map sees, for each axis
            or for all; a field that is global also counts by its local size.
        max_latency_ratio: most that the model's latency may be of that of ``reference``. Both are timed
            alternately in this process; the limit breaks where their ratio is above it by more than its
            spread.
        flash: most bytes of weights in ``weights_dtype``: ``"1 MB"``; see `archcost.footprint`.
        sram: most bytes of activations alive at once in ``activations_dtype``: ``"320 KB"``.
        weights_dtype: the dtype for ``flash``, such as ``"int8"``; by default the model's own. Nothing is
            quantised.
        activations_dtype: the dtype for ``sram``.
        reference: a model or SPEC that takes the same inputs.
        seconds: wall-clock limit of the timing.

    Returns:
        The Analysis of the model.

    Raises:
        CostError: a limit breaks. It is an AssertionError, and names the limit, by how much it breaks, and
            the layers that cost most with the lines that build them (see `archcost.recording_sites`).
        InputError: a limit cannot be read, there is none, or the inputs do not fit.
    """
    __tracebackhide__ = True
    budget = Budget(
        max_params=max_params,
        max_macs=max_macs,
        max_flops=max_flops,
        max_peak_memory=max_peak_memory,
        max_kept_for_backward=max_kept_for_backward,
        max_depth=max_depth,
        min_receptive_field=min_receptive_field,
        max_latency_ratio=max_latency_ratio,
        flash=flash,
        sram=sram,
        weights_dtype=weights_dtype,
        activations_dtype=activations_dtype,
    )
    analysis = analysis_of("assert_cost", model, inputs, input_size=input_size, dtype=dtype)
    breaches = broken(budget, analysis, inputs, reference, seconds)
    if breaches:
        raise CostError(message(analysis, breaches))
    return analysis


def broken(
    budget: Budget,
    analysis: Analysis,
    inputs: Inputs = None,
    reference: nn.Module | str | None = None,
    seconds: float = 10.0,
) -> list[Breach]:
    """The breaches of a budget, its limit on the latency measured; the arguments are those of `assert_cost`.

    Raises:
        InputError: the budget has no limit, or one on the latency without a reference.
    """
    if replace(budget, weights_dtype=None, activations_dtype=None) == Budget():
        raise InputError("assert_cost: no limit is given; write one, such as max_macs='4.2G'")
    if (budget.max_latency_ratio is None) != (reference is None):
        raise InputError(
            "assert_cost: max_latency_ratio and reference go together: the model to time against"
        )
    breaches = list(budget.breaches(analysis))
    return breaches if reference is None else breaches + _slower(budget, analysis, inputs, reference, seconds)


def message(analysis: Analysis, breaches: Sequence[Breach], old: Record | None = None) -> str:
    """The breaches in words, with what changed since the baseline where there is one."""
    lines = [f"{visible(analysis.name)} ({analysis.input_text}) exceeds its budget"]
    lines += (f"  {line}" for one in breaches for line in str(one).splitlines())
    if old is not None:
        for measure in dict.fromkeys(one.limit.partition("_")[2] for one in breaches):
            changed = explained(old, analysis, measure)
            if changed:
                lines += [f"  since the baseline, {measure}:", *(f"    {line}" for line in changed)]
    lines.append("  make these layers cheaper, or raise the limit")
    return "\n".join(lines)


def _slower(
    budget: Budget, analysis: Analysis, inputs: Inputs, reference: nn.Module | str, seconds: float
) -> list[Breach]:
    """The breach of the limit on the latency, timed against the reference; empty where it is kept."""
    import torch

    from archcost.latency.timing.clock import compare_calls, ratio
    from archcost.latency.timing.deadline import Deadline, TooLittleTime
    from archcost.latency.timing.thresholds import FEWEST, PAIR_ROUNDS
    from archcost.models.specs import load
    from archcost.surgery.checking import evaluating
    from archcost.trace.call import Call, like_traced
    from archcost.trace.modules import walk
    from archcost.trace.state import Untouched

    new, old = analysis.model, load(reference).model if isinstance(reference, str) else reference
    args, kwargs = (like_traced(analysis.trace) if inputs is None else Call.of(inputs)).cloned()
    single = torch.get_num_threads() == 1
    with Untouched(walk(new)), Untouched(walk(old)), evaluating(new), evaluating(old):
        timings = compare_calls(
            {"model": lambda: new(*args, **kwargs), "reference": lambda: old(*args, **kwargs)},
            rounds=PAIR_ROUNDS,
            deadline=Deadline(seconds),
            cpu_clock="thread" if single else "process",
        )
    found = ratio(timings["model"], timings["reference"], wall=not single) if len(timings) == 2 else None
    if found is None or found.pairs < FEWEST:
        raise TooLittleTime(
            f"assert_cost: fewer than {FEWEST} pairs of passes were timed in {seconds:g} s; give more seconds"
        )
    limit = float(budget.max_latency_ratio or 0)
    if found.median - found.spread <= limit:
        return []
    times = f"{found.median:.2f} times that of the reference (spread {found.spread:.2f}, {found.pairs} pairs)"
    return [Breach("max_latency_ratio", f"{times}, above {limit:g}")]
