"""The layers behind a convolution, up to a pooling or another convolution."""

from __future__ import annotations

from dataclasses import dataclass

from archcost.errors import Refusal
from archcost.merging.norms import inner_activation, is_norm, norm_problem
from archcost.rewriting.survey.graph import Taker, is_elementwise, results_of, takers
from archcost.rewriting.survey.movable import why_fixed
from archcost.rewriting.survey.pools import POOLS, Pooling, pool_of
from archcost.rewriting.survey.survey import Subject
from archcost.spec import ConvSpec

__all__ = ["Behind", "behind"]

_WINDOWS = ("avg_pool", "max_pool", "adaptive_avg_pool", "adaptive_max_pool", "mean", "slice")


@dataclass(frozen=True)
class Behind:
    """The next pooling or convolution behind a layer, and the layers between."""

    name: str
    """Name of that pooling or convolution."""
    norms: tuple[str, ...]
    """Names of the batch normalisations between, in eval mode."""
    activations: tuple[str, ...]
    """Element-wise modules and functions between."""
    pool: Pooling | None
    """The pooling; None: a convolution comes next."""
    spec: ConvSpec
    """Shapes of the convolution, or of the pooling as a depthwise convolution, in the first call."""


def behind(subject: Subject) -> Behind | Refusal:
    """The next pooling or convolution behind a layer; or why there is none that could move."""
    results = results_of(subject)
    survey = subject.survey
    norms: list[str] = []
    activations: list[str] = []
    seen = {subject.name}
    while not isinstance(results, Refusal):
        found = takers(survey, results)
        if isinstance(found, Refusal):
            return found
        first = found[0]
        if first.call is not None and first.module in seen:
            return Refusal(f"{first.module} is called again behind it")
        seen.add(first.module if first.call is not None else "")
        if first.call is not None and (first.type_name in POOLS or first.module in survey.neighbours):
            return _end(subject, first, [one.ref.shape for one in results], norms, activations)
        why = _between(subject, first, norms, activations)
        if why is not None:
            return Refusal(why)
        results = [one.result for one in found]
    return results


def _between(subject: Subject, taker: Taker, norms: list[str], activations: list[str]) -> str | None:
    """Add a layer between to ``norms`` or ``activations``; or return why nothing can move past it."""
    survey = subject.survey
    if taker.call is not None:
        module = survey.model.get_submodule(taker.module)
        if is_norm(module):
            why = norm_problem(module)
            if why is not None:
                return f"{taker} {why}"
            norms.append(taker.module)
            inner = inner_activation(taker.module, module)
            activations += [] if inner is None else [inner]
            return None
    if is_elementwise(survey, taker):
        activations.append(taker.module if taker.call is not None else str(taker.function))
        return None
    if taker.function is not None and taker.function.lstrip("_").startswith(_WINDOWS):
        return f"the next operation is {taker}, and only a module can be moved"
    return f"the next layer is {taker}, not a pooling or a strided convolution"


def _end(
    subject: Subject, first: Taker, shapes: list[tuple[int, ...]], norms: list[str], activations: list[str]
) -> Behind | Refusal:
    survey, axes, shape = subject.survey, subject.axes, shapes[0]
    if len(shape) != axes + 2:
        return Refusal(f"{first} gets its input without a batch, or in another shape")
    way = (first.module, tuple(norms), tuple(activations))
    then = survey.neighbours.get(first.module)
    if then is not None:
        if then.refusal is not None:
            return Refusal(f"{first.module} cannot be replaced: {then.refusal}")
        return Behind(*way, None, then.spec)
    module = survey.model.get_submodule(first.module)
    out = first.result.ref.shape
    pool = pool_of(module, shape[2:], out[2:])
    why = pool if isinstance(pool, Refusal) else why_fixed(survey, first.module)
    if isinstance(pool, Refusal) or why is not None:
        return Refusal(f"{first} {why}")
    if survey.trace.modules[first.module].aliases:
        return Refusal(f"{first} is shared under several names")
    if pool.adaptive and len({one[2:] for one in shapes}) > 1:
        return Refusal(f"{first} has a window that depends on the size of its input")
    return Behind(*way, pool, pool.spec(shape[1], shape[2:], out[2:], shape[0]))
