"""A plan carried out on a model: weights fitted to data, new layers checked, failures undone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import TypeVar

import torch
from torch import nn

from archcost.errors import ArchcostError, RewriteError, one_line
from archcost.merging.chain import Conv
from archcost.merging.compose import composed
from archcost.paths.accuracy import exact_convolution
from archcost.progress import Progress
from archcost.rewriting.plan.plan import Applied, Plan
from archcost.rewriting.proposal import Proposal
from archcost.rewriting.rule import Factorisation, get
from archcost.spec import ConvSpec
from archcost.surgery.checking import checked, evaluating, record_inputs
from archcost.surgery.outputs import outputs_of, worst_error
from archcost.surgery.sites import Hooks
from archcost.trace.call import Call, Inputs
from archcost.trace.modules import walk
from archcost.trace.state import Untouched
from archcost.weights.features import Batches
from archcost.weights.moments import Moments, collect, covariance_bytes
from archcost.weights.refit import refit

__all__ = ["Application", "Outcome", "carried_out", "moments_of", "outputs_apart"]

T = TypeVar("T")

# Bytes of covariances held at a time.
_MOST_BYTES = 2**29
# Tolerance between a new layer and the kernel that it composes to: rounding of two or three convolutions.
_ROUNDING = {torch.float64: 1e-9, torch.float32: 1e-4}
_HALF = 5e-2


@dataclass(frozen=True)
class Outcome:
    """The outcome of a proposal that was carried out: its errors, or why it failed."""

    proposal: Proposal
    error: float | None
    """max |new - old| / max |old| of the layer's output on the inputs given; None: not compared alone."""
    refitted: tuple[float, float] | None
    """Relative error of the layer's output on the data, before and after the refit of its last stage."""
    problem: str | None
    """Why it failed and was undone; None where it did not fail."""
    unfitted: str | None = None
    """Why the layer is not fitted to the calibration data; None where it is, or there is none."""


@dataclass(frozen=True, eq=False)
class Application:
    """A plan to be carried out on ``work``: the model itself or a copy.

    With calibration data ``model`` is the unchanged original, whose outputs are the targets.
    """

    model: nn.Module
    work: nn.Module
    plan: Plan
    call: Call
    """The inputs on which every new layer is compared with the old one."""
    batches: Sequence[Inputs] | None = None
    """Calibration data; None: weights come from the old weights alone."""
    moments: Mapping[str, Moments] | None = None
    """Moments of layers' inputs that are known already, by the layer's name."""
    hooks: Hooks = "refuse"
    strict: bool = True
    """Whether a failure of a layer raises; else it is recorded in its outcome."""
    progress: bool | None = None


def carried_out(task: Application) -> tuple[Applied, tuple[Outcome, ...]]:
    """Apply the plan proposal by proposal, checking each new layer at once."""
    plan = task.plan
    recorded = record_inputs(task.model, task.call, [one.name for one in plan])
    expected = outputs_apart(task.model, task.call)
    applied = Applied(task.work)
    problems: dict[str, str] = {}
    errors: dict[str, float | None] = {}
    try:
        with Progress(len(plan) or 1, "rewriting", task.progress) as bar:
            known = task.moments or {}
            for part in _parts(plan, task.batches is not None and not known):
                seen = known or _moments(task, part)
                for one in part:
                    bar.step()
                    try:
                        handle = Plan([one]).apply(task.work, inplace=True, moments=seen, hooks=task.hooks)
                    except Exception as error:  # whatever somebody's rule raises
                        if task.strict:
                            raise
                        problems[one.name] = f"failed: {error or type(error).__name__}"
                        continue
                    errors[one.name], problem = _looked_at(one, handle, recorded.get(one.name))
                    applied.join(handle)
                    if problem is not None:
                        applied.undo(one.name)
                        problems[one.name] = f"undone: {problem}"
        whole = _whole(task, applied, expected)
        problems |= {name: f"undone: {said}" for name, said in whole.items()}
        refitted, unfitted = _refitted(task, applied)
    except BaseException:
        applied.undo()
        raise
    return applied, tuple(
        Outcome(one, errors.get(n := one.name), refitted.get(n), problems.get(n), unfitted.get(n))
        for one in plan
    )


def _parts(plan: Plan, data: bool) -> Iterator[list[Proposal]]:
    """The proposals in groups whose covariances fit into memory."""
    part: list[Proposal] = []
    held = 0
    for one in plan:
        size = _covariance_bytes(one) if data else 0
        if part and held + size > _MOST_BYTES:
            yield part
            part, held = [], 0
        part.append(one)
        held += size
    if part:
        yield part


def _covariance_bytes(one: Proposal) -> int:
    if one.exact or not one.old:
        return 0
    spec = one.old[0]
    patch = spec.weights // spec.out_channels
    return 8 * spec.groups * patch * patch


def _moments(task: Application, part: list[Proposal]) -> Mapping[str, Moments]:
    names = _fitted_names(part)
    if task.batches is None:
        return {}
    return moments_of(task.model, names, task.batches, strict=task.strict, progress=task.progress)


def _fitted_names(proposals: Iterable[Proposal]) -> list[str]:
    """Names of the layers whose new weights can be fitted to data."""
    return [one.name for one in proposals if isinstance(get(one.rule), Factorisation)]


def moments_of(
    model: nn.Module, names: Iterable[str], batches: Batches, *, strict: bool, progress: bool | None
) -> dict[str, Moments]:
    """Moments by name, except for transposed layers and those with too large a covariance.

    Unless ``strict``, layers are also left out whose moments cannot be computed, as where they are not
    called.
    """
    layers = {name: model.get_submodule(name) for name in names}
    fit = [
        name
        for name, layer in layers.items()
        if not getattr(layer, "transposed", False) and covariance_bytes(layer) <= 2 * _MOST_BYTES
    ]
    if strict:
        return collect(model, fit, batches, progress=progress) if fit else {}
    return _each(lambda part: collect(model, part, batches, progress=progress), fit)[0]


def _each(work: Callable[[list[str]], dict[str, T]], names: list[str]) -> tuple[dict[str, T], dict[str, str]]:
    """The results for all layers at once or, where that fails, for each alone; and the failures by name.

    Raises:
        RewriteError: every layer fails.
    """
    if not names:
        return {}, {}
    try:
        return work(names), {}
    except RewriteError as error:
        first = error
    found: dict[str, T] = {}
    failed: dict[str, str] = {}
    for name in names:
        try:
            found |= work([name])
        except ArchcostError as error:  # also of an iterator of batches that the first try has used up
            failed[name] = str(error)
    if not found:
        raise first
    return found, failed


def _looked_at(one: Proposal, handle: Applied, given: Call | None) -> tuple[float | None, str | None]:
    """The error of a new layer on a recorded input, and why it is wrong."""
    if given is None or len(one.replacement.chains) > 1:
        return None, None  # replacements of several modules are checked in the whole model
    old, new = handle.replaced[one.name]
    dtype = next((p.dtype for p in old.parameters()), torch.float32)
    rounding = _ROUNDING.get(dtype, _HALF)
    paths = any(step.path or step.channels_last for step in one.replacement.convs)
    found = checked(old, new, given, tolerance=10 * rounding if one.exact else inf, strides=not paths)
    if found.problem is not None:
        return found.error, found.problem
    off = _against_kernel(one, old, new, given)
    if off is not None and not off <= rounding:
        return found.error, (
            f"its output differs from that of the kernel it composes to by {off:.1e}, more than rounding "
            f"({rounding:.0e})"
        )
    return found.error, None


def _against_kernel(one: Proposal, old: nn.Module, new: nn.Module, given: Call) -> float | None:
    """Relative difference of a linear chain's output from the convolution that it composes to, with
    borders."""
    chain = one.replacement.chain
    layers = [module for module in new.modules() if isinstance(module, nn.modules.conv._ConvNd)]
    if one.exact or not all(isinstance(step, Conv) for step in chain) or len(layers) != len(chain):
        return None
    specs = [step.spec for step in chain if isinstance(step, Conv)]
    if any(spec.transposed for spec in specs) or not _is_linear(specs):
        return None
    x = given.args[0] if given.args else given.kwargs.get("input")
    if not isinstance(x, torch.Tensor):
        return None
    axes = len(specs[0].input_size)
    with torch.no_grad(), evaluating(new):
        y = new(x.clone())
        groups = one.old[0].groups
        kernel = composed([layer.weight.double() for layer in layers], specs, groups)
        whole = replace(
            one.old[0],
            kernel_size=tuple(kernel.shape[3:]),
            dilation=1,
            input_size=tuple(x.shape[-axes:]),
            batch=1,
        )
        bias = layers[-1].bias
        exact = exact_convolution(
            x.unsqueeze(0) if x.dim() == axes + 1 else x, kernel.flatten(0, 1), whole, bias
        )
    exact = exact.reshape(y.shape)
    largest = exact.abs().max().item()
    return (y.double() - exact).abs().max().item() / largest if largest else 0.0


def _is_linear(specs: Sequence[ConvSpec]) -> bool:
    """Whether a chain is exactly one convolution: biases at its end and padding at its start only."""
    if any(spec.bias for spec in specs[:-1]):
        return False
    before: set[int] = set()
    for spec in specs:
        columns = zip(spec.kernel_size, spec.stride, spec.padding, strict=True)
        for axis, (k, stride, pair) in enumerate(columns):
            if axis in before and max(pair):
                return False
            if k > 1 or stride > 1:
                before.add(axis)
    return True


def _whole(task: Application, applied: Applied, expected: list[torch.Tensor]) -> dict[str, str]:
    """Run the whole model, and undo proposals, the last first, until it runs with the old shapes."""
    problems: dict[str, str] = {}
    exact = all(one.exact for one in task.plan)
    standing = list(applied.names)
    while (said := _wrong(task.work, task.call, expected, exact)) is not None and standing:
        problems[standing[-1]] = said
        applied.undo(standing.pop())
    return problems


def _wrong(model: nn.Module, call: Call, expected: list[torch.Tensor], exact: bool) -> str | None:
    try:
        found = outputs_apart(model, call)
    except Exception as error:  # whatever the user's forward raises is the problem
        return f"the model's forward fails with it: {one_line(error)}"
    if [one.shape for one in found] != [one.shape for one in expected]:
        return "the model's outputs change their shapes with it"
    if exact:
        off = worst_error(found, expected)
        dtype = expected[0].dtype if expected else torch.float32
        if off > 10 * _ROUNDING.get(dtype, _HALF):
            return f"the model's outputs differ by {off:.1e} with an exact rewrite"
    return None


def outputs_apart(model: nn.Module, call: Call) -> list[torch.Tensor]:
    """The model's outputs in eval mode from random seed 0; model and random state end unchanged."""
    with Untouched(walk(model)), evaluating(model):
        torch.manual_seed(0)
        return outputs_of(model, call)


def _refitted(task: Application, applied: Applied) -> tuple[dict[str, tuple[float, float]], dict[str, str]]:
    """Errors before and after the refit, by name, and why some layers are not fitted."""
    names = _fitted_names(one for one in task.plan if one.name in applied.names)
    if task.batches is None or not names:
        return {}, {}
    batches = task.batches

    def fitted(part: list[str]) -> dict[str, tuple[float, float]]:
        found = refit(task.model, task.work, part, batches, progress=task.progress)
        return {name: (one.before, one.after) for name, one in found.items()}

    return (fitted(names), {}) if task.strict else _each(fitted, names)
