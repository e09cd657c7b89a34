"""pool_first: a pooling or a stride moved before the convolution that it follows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import torch

from archcost.errors import ArchcostError, Refusal, RewriteError
from archcost.merging.affine import affine
from archcost.merging.branches import convolution_of
from archcost.merging.chain import Conv, Kept
from archcost.rewriting.replacement import Replacement
from archcost.rewriting.rule import Modules, Option, Rewrite, RuleOptions, Weights, own_weights
from archcost.rewriting.survey.behind import Behind, behind
from archcost.rewriting.survey.pools import pool_of
from archcost.rewriting.survey.survey import Subject
from archcost.spec import ConvSpec
from archcost.weights.moments import Moments

__all__ = ["PoolFirst"]


class PoolFirst(Rewrite):
    """A pooling or stride before the convolution, which then computes fewer positions.

    Options: ``how`` is

    * ``pool``: the pooling moves before the convolution. Exact for average pooling and a 1x1 convolution,
      which are sums over pixels and over channels (the transitions of DenseNet, Huang et al. 2017). Else an
      approximation, to be judged on data or after training;
    * ``kernel``: a KxK convolution and an average pooling of k pixels become a convolution of K + k - 1
      pixels with the stride of the pooling: exact;
    * ``stride``: the stride of a 1x1 convolution, or of a pooling of a single pixel, moves through
      element-wise operations into the convolution: exact.

    Max pooling before a monotonic activation function such as ReLU gives the same and saves no MACs.
    """

    name = "pool_first"
    change = "conv, pool -> pool, conv; conv, stride -> strided conv"
    break_even = (
        "a pooling of stride s on d axes: always, 1 / s^d of the MACs; as a kernel: (K + k - 1)^d < s^d K^d"
    )

    def refusal(self, subject: Subject) -> Refusal | None:
        found = _found(subject)
        return found if isinstance(found, Refusal) else None

    def options(self, subject: Subject, ratio: float) -> Iterable[RuleOptions]:
        found = _found(subject)
        if not isinstance(found, Refusal):
            for how, one in found.items():
                if one.macs < _macs(subject, one):
                    yield {"how": how}

    def replacement(self, subject: Subject, *, how: str = "", **unknown: Option) -> Replacement:
        found = _found(subject)
        if isinstance(found, Refusal):
            raise RewriteError(f"{subject.name}: {found}")
        if how in found and not unknown:
            return found[how]
        there = " or ".join(f"how={one!r}" for one in found)
        given = {"how": how, **unknown} if how else unknown
        raise RewriteError(f"{subject.name}: pool_first takes {there} here, not {given}")

    def carry(self, modules: Modules, replacement: Replacement, moments: Moments | None = None) -> Weights:
        first = replacement.name
        with torch.no_grad():
            chains = replacement.chains.items()
            convs = [name for name, chain in chains if any(isinstance(step, Conv) for step in chain)]
            made: Weights = {name: [own_weights(modules[name])] for name in convs}
            new = replacement.convs[0].spec
            old, weights = convolution_of(modules[first], tuple(new.input_size), True)
            if old.kernel_size == new.kernel_size and old.extent == new.extent:
                return made
            name = next(other for other in replacement.chains if other != first)
            size = tuple(old.output_size)
            pool = pool_of(modules[name], size, new.output_size)
            if isinstance(pool, Refusal):
                raise RewriteError(f"{name} {pool}")
            ones = torch.ones(old.out_channels, 1, *pool.kernel, dtype=torch.float64) / pool.divisor
            spec = pool.spec(old.out_channels, size, new.output_size, 1)
            assert weights is not None
            whole = affine(old, weights).convolved(spec, (ones.to(weights[0].device), None))
            if isinstance(whole, Refusal):
                raise RewriteError(f"{first}: {name} {whole}")
            return {first: [whole.weights()]}


def _macs(subject: Subject, one: Replacement) -> int:
    """MACs of the old convolutions of a replacement."""
    known = subject.survey.neighbours
    return sum(known[name].spec.macs for name in one.chains if name in known)


def _found(subject: Subject) -> dict[str, Replacement] | Refusal:
    """The possible replacements by option ``how``; or why there are none."""
    if subject.spec.transposed:
        return Refusal("it is transposed")
    then = behind(subject)
    if isinstance(then, Refusal):
        return then
    ways = dict(_strided(subject, then)) if then.pool is None or _single(then.spec) else {}
    if then.pool is not None and not ways:
        ways = dict(_moved(subject, then))
        if not any(one.exact for one in ways.values()):
            ways |= _as_kernel(subject, then)
    if ways:
        return ways
    if then.pool is None:
        return Refusal(f"the next layer, {then.name}, is a convolution but not a strided 1x1")
    return Refusal(
        f"{then.name} cannot come first: the convolution changes the size of its input, so the output sizes "
        f"would differ"
    )


def _single(spec: ConvSpec) -> bool:
    """Whether each output position depends on a single pixel."""
    return all(k == 1 for k in spec.kernel_size) and not any(low or high for low, high in spec.padding)


def _strided(subject: Subject, then: Behind) -> Iterator[tuple[str, Replacement]]:
    stride = then.spec.stride
    if not _single(then.spec) or max(stride) == 1 or then.spec.transposed or (then.pool and then.pool.ceil):
        return
    if then.pool is not None and (then.pool.adaptive or then.pool.divisor != 1):
        return
    spec = subject.spec
    first = replace(spec, stride=tuple(a * b for a, b in zip(spec.stride, stride, strict=True)))
    second = () if then.pool is not None else (
        Conv(replace(then.spec, stride=1, input_size=first.output_size)),
    )  # fmt: skip
    yield "stride", Replacement({subject.name: (Conv(first),), then.name: second}, exact=True)


def _moved(subject: Subject, then: Behind) -> Iterator[tuple[str, Replacement]]:
    spec, pool = subject.spec, then.pool
    assert pool is not None
    if spec.output_size != spec.input_size or max(spec.stride) > 1 or _grows(spec):
        return
    channels = spec.in_channels
    kept = replace(then.spec, in_channels=channels, out_channels=channels, groups=channels)
    try:
        conv = replace(spec, input_size=kept.output_size)
    except ArchcostError:
        return
    if not _can_pad(conv):
        return
    why = _inexact(subject, then)
    note = "" if why is None else f"an approximation: {why}"
    chains = {subject.name: (Kept(then.name, kept), Conv(conv)), then.name: ()}
    yield "pool", Replacement(chains, exact=why is None, note=note)


def _inexact(subject: Subject, then: Behind) -> str | None:
    """Why the pooling is not exact before the convolution; None where it is."""
    assert then.pool is not None
    if not _single(subject.spec):
        size = "x".join(map(str, subject.spec.kernel_size))
        return f"a {size} kernel reads other neighbours in the pooled map"
    if then.pool.kind != "average":
        return "a maximum does not commute with the sum over channels"
    if then.activations:
        return f"an average does not commute with {then.activations[0]}"
    if not then.pool.keeps_constants and (subject.spec.bias or then.norms):
        return f"{then.name} changes constants, as the bias of the convolution is"
    return None


def _as_kernel(subject: Subject, then: Behind) -> Iterator[tuple[str, Replacement]]:
    pool = then.pool
    if pool is None or pool.kind != "average" or then.activations or pool.adaptive or pool.ceil:
        return
    if any(pool.padding) or (then.norms and not pool.keeps_constants):
        return
    whole = affine(subject.spec).convolved(then.spec)
    if isinstance(whole, Refusal):
        return
    spec = whole.spec(subject.spec.input_size, subject.spec.batch)
    if spec.kernel_size == subject.spec.kernel_size:
        return
    yield "kernel", Replacement({subject.name: (Conv(spec),), then.name: ()}, exact=True)


def _grows(spec: ConvSpec) -> bool:
    """Whether the output size differs from the input size, for some size."""
    return any(low + high != e - 1 for (low, high), e in zip(spec.padding, spec.extent, strict=True))


def _can_pad(spec: ConvSpec) -> bool:
    """Whether PyTorch can pad so far: it reflects n - 1 pixels at most, and wraps around once at most."""
    most = {"reflect": 1, "circular": 0}.get(spec.padding_mode)
    pairs = zip(spec.padding, spec.input_size, strict=True)
    return most is None or all(max(pair) <= n - most for pair, n in pairs)


RULES, ORDER = (PoolFirst(),), 60
