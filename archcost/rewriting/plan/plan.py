"""Plan: chosen proposals, to be applied to a model, saved and read."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from dataclasses import replace as replace_fields
from typing import Literal, TypeVar, overload

import torch
from torch import nn

from archcost.errors import RewriteError
from archcost.nn.like import ConvLike
from archcost.rewriting import rule as rules
from archcost.rewriting.plan.building import built
from archcost.rewriting.proposal import Proposal, overlap
from archcost.rewriting.replacement import named_by
from archcost.spec import ConvSpec
from archcost.surgery.copying import copied
from archcost.surgery.exchange import Handle, replace
from archcost.surgery.sites import Hooks, sites
from archcost.weights.moments import Moments

__all__ = ["Applied", "Plan"]

Model = TypeVar("Model", bound=nn.Module)


class Applied:
    """The exchanges that a plan made in a model, which `undo` reverts."""

    def __init__(self, model: nn.Module, before: Applied | None = None) -> None:
        self.model = model
        self._handles: dict[str, Handle] = {}
        self._before = before

    @property
    def replaced(self) -> dict[str, tuple[nn.Module, nn.Module]]:
        """Old and new modules by name; empty once undone."""
        found = {} if self._before is None else self._before.replaced
        for handle in self._handles.values():
            for name, (old, new) in handle.replaced.items():
                found[name] = found.get(name, (old, new))[0], new
        return found

    def undo(self, name: str | None = None) -> None:
        """Put the old modules back; a second call does nothing.

        Args:
            name: of a proposal, to undo that alone; by default all.

        Raises:
            RewriteError: another module has been put there since.
        """
        names = list(self._handles) if name is None else [name] if name in self._handles else []
        for one in reversed(names):
            self._handles[one].undo()
            del self._handles[one]
        if name is None and self._before is not None:
            self._before.undo()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the applied proposals, in the order of application."""
        return tuple(self._handles)

    def join(self, other: Applied) -> None:
        """Take over the exchanges of another plan in the same model."""
        self._handles |= other._handles
        other._handles = {}


@dataclass(frozen=True)
class Plan:
    """Chosen proposals, no two of which replace the same module.

    Raises:
        RewriteError: two proposals replace the same module, or modules inside one another.
    """

    proposals: tuple[Proposal, ...]
    after: Plan | None = None
    """The plan that is applied first: the proposals are for the model that it makes."""

    def __init__(self, proposals: Iterable[Proposal], after: Plan | None = None) -> None:
        object.__setattr__(self, "proposals", tuple(proposals))
        object.__setattr__(self, "after", after)
        taken: list[tuple[str, Proposal]] = []
        for one in self.proposals:
            for name in one.replacement.chains:
                for other, before in taken:
                    if overlap(name, other):
                        raise RewriteError(
                            f"{before.rule} of {before.name!r} and {one.rule} of {one.name!r} both replace "
                            f"{name!r}: choose one of them"
                        )
            taken += [(name, one) for name in one.replacement.chains]

    def __len__(self) -> int:
        return len(self.proposals) + len(self.after or ())

    def __iter__(self) -> Iterator[Proposal]:
        return itertools.chain(self.after or (), self.proposals)

    def without(self, names: Iterable[str]) -> Plan:
        """The plan without the proposals of some names."""
        left_out = set(names)
        after = None if self.after is None else self.after.without(left_out)
        return Plan((one for one in self.proposals if one.name not in left_out), after)

    @overload
    def apply(
        self,
        model: Model,
        *,
        inplace: Literal[False] = False,
        weights: bool = True,
        moments: Mapping[str, Moments] | None = None,
        hooks: Hooks = "refuse",
    ) -> Model: ...

    @overload
    def apply(
        self,
        model: nn.Module,
        *,
        inplace: Literal[True],
        weights: bool = True,
        moments: Mapping[str, Moments] | None = None,
        hooks: Hooks = "refuse",
    ) -> Applied: ...

    @torch.inference_mode(False)  # tensors made in the caller's inference mode could not be trained
    def apply(
        self,
        model: nn.Module,
        *,
        inplace: bool = False,
        weights: bool = True,
        moments: Mapping[str, Moments] | None = None,
        hooks: Hooks = "refuse",
    ) -> nn.Module | Applied:
        """Apply the plan to a copy of the model, or to the model itself.

        Args:
            inplace: change the model itself.
            weights: compute the new weights from the trained ones. False leaves the new layers random, for
                the state_dict of a model that the same plan was applied to.
            moments: mean and covariance of layers' input patches, by the layer's name
                (`archcost.weights.moments.collect`).
            hooks: "keep": new layers take over the hooks of the old ones; "refuse": a layer with hooks
                raises.

        Returns:
            The copy; with ``inplace`` an `Applied`, whose ``undo()`` restores the model.

        Raises:
            RewriteError: the model does not fit the plan, or one of its layers may not be replaced; the
                message names the module, and the model is unchanged.
        """
        work = model if inplace else copied(model)
        first = self.after
        before = None
        if first is not None:
            before = first.apply(work, inplace=True, weights=weights, moments=moments, hooks=hooks)
        applied = Applied(work, before)
        try:
            self._check(work, hooks, weights)
            for one in self.proposals:
                given = None if moments is None else moments.get(rules.get(one.rule).fitted(one.replacement))
                made = _modules(work, one, weights, given)
                applied._handles[one.name] = replace(work, made, inplace=True, hooks=hooks)
        except BaseException:
            applied.undo()
            raise
        return applied if inplace else work

    def to_json(self, path: str | os.PathLike[str] | None = None, indent: int | None = 2) -> str | None:
        """The plan as JSON, which `from_json` reads.

        Args:
            path: a file to write; None returns the text.
            indent: as in ``json.dumps``.
        """
        from archcost.rewriting.plan.plan_json import written

        return written(self, path, indent)

    @classmethod
    def from_json(cls, source: str | os.PathLike[str]) -> Plan:
        """A plan from the text of `to_json`, or the path of its file.

        Raises:
            RewriteError: it cannot be read as a plan; the message says where.
        """
        from archcost.rewriting.plan.plan_json import read

        proposals, first = read(source)
        return cls(proposals, cls(first) if first else None)

    def to_python(self) -> str:
        """Python source of a function that builds the new layers by name, without weights.

        Those of `after` are built by a function of their own, ``first_layers``.
        """
        from archcost.rewriting.plan.source import source_of

        if self.after is None:
            return source_of(self.proposals)
        return f"{source_of(self.after, 'first_layers')}\n\n{source_of(self.proposals)}"

    def _check(self, model: nn.Module, hooks: Hooks, weights: bool) -> None:
        """Raise where the model does not fit the plan."""
        known = {name: site for site in sites(model, hooks=hooks) for name in site.names}
        for one in self.proposals:
            said = f"{one.rule} of {one.name!r} does not fit this model"
            site = known.get(one.name)
            if site is not None and site.reason is not None:
                raise RewriteError(f"{one.name!r} cannot be replaced: {site.reason}")
            for name, kind in itertools.zip_longest(named_by(one.replacement), one.types):
                try:
                    module = model.get_submodule(name)
                except AttributeError:
                    raise RewriteError(f"{said}: it has no module {name!r}") from None
                if kind is not None and type(module).__name__ != kind:
                    raise RewriteError(
                        f"{said}: {name!r} is a {type(module).__name__}, and a {kind} in the plan"
                    )
            for name, spec in zip(one.replacement.chains, one.old, strict=False):
                module = model.get_submodule(name)
                wide = spec.in_channels, spec.out_channels
                if isinstance(module, nn.Linear) and (module.in_features, module.out_features) != wide:
                    there = f"{module.in_features} -> {module.out_features}"
                    raise RewriteError(
                        f"{said}: {name!r} has {there}, and {wide[0]} -> {wide[1]} in the plan"
                    )
            if site is None:
                continue
            if weights and any(p.is_meta for p in site.module.parameters()):
                raise RewriteError(f"{one.name!r} is on `meta` and has no values: apply(..., weights=False)")
            for what, there, asked in _differences(site.module, one.old[0]):
                raise RewriteError(f"{said}: its {what} is {there}, and {asked} in the plan")


def _differences(module: nn.Module, asked: ConvSpec) -> Iterator[tuple[str, str, str]]:
    """Attributes of a convolution that differ from the plan: name, value here, value in the plan."""
    like = ConvLike(module)
    for what in ("in_channels", "out_channels", "kernel_size", "stride", "dilation", "groups", "transposed"):
        if getattr(like, what) != getattr(asked, what):
            yield what, str(getattr(like, what)), str(getattr(asked, what))
    there = replace_fields(like.spec(asked.input_size, asked.batch), bias=like.bias is not None)
    for what in ("padding", "padding_mode", "output_padding", "bias"):
        if getattr(there, what) != getattr(asked, what):
            yield what, str(getattr(there, what)), str(getattr(asked, what))


def _modules(model: nn.Module, one: Proposal, weights: bool, moments: Moments | None) -> dict[str, nn.Module]:
    """The new modules of a proposal, by the names of the old ones."""
    there = {name: model.get_submodule(name) for name in named_by(one.replacement)}
    carried = rules.get(one.rule).carry(there, one.replacement, moments) if weights else {}
    made = {}
    for name, chain in one.replacement.chains.items():
        made[name] = built(chain, there[name], carried.get(name, ()) if weights else None, there)
    return made
