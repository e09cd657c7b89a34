"""Plan: chosen proposals, and the model that they make."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from dataclasses import replace as replace_fields
from itertools import zip_longest
from typing import Any, Literal, TypeVar, overload

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
    """What a plan did to a model in place, and the way back."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._handles: dict[str, Handle] = {}

    @property
    def replaced(self) -> dict[str, tuple[nn.Module, nn.Module]]:
        """Old and new module, by name; empty once undone."""
        return {name: pair for handle in self._handles.values() for name, pair in handle.replaced.items()}

    def undo(self, name: str | None = None) -> None:
        """Put back every old module, or those of the proposal of that name; a second time does nothing.

        Raises:
            RewriteError: somebody has put yet another module there since.
        """
        names = list(self._handles) if name is None else [name] if name in self._handles else []
        for one in reversed(names):
            self._handles[one].undo()
            del self._handles[one]

    @property
    def names(self) -> tuple[str, ...]:
        """Of the proposals that stand, in the order in which they were applied."""
        return tuple(self._handles)

    def join(self, other: Applied) -> None:
        """Take over what another plan did to the same model since."""
        self._handles |= other._handles
        other._handles = {}


@dataclass(frozen=True)
class Plan:
    """Proposals that go together: no module is replaced twice.

    Raises:
        RewriteError: two of them replace the same module, or one a module inside another's.
    """

    proposals: tuple[Proposal, ...]

    def __init__(self, proposals: Iterable[Proposal]) -> None:
        object.__setattr__(self, "proposals", tuple(proposals))
        taken: list[tuple[str, Proposal]] = []
        for one in self.proposals:
            for name in one.replacement.chains:
                for other, before in taken:
                    if overlap(name, other):
                        raise RewriteError(
                            f"{before.rule} of {before.name!r} and {one.rule} of {one.name!r} cannot go "
                            f"together: both replace {name!r}; take one of them"
                        )
            taken += [(name, one) for name in one.replacement.chains]

    def __len__(self) -> int:
        return len(self.proposals)

    def __iter__(self) -> Iterator[Proposal]:
        return iter(self.proposals)

    def without(self, names: Iterable[str]) -> Plan:
        """The same, less the proposals of these names."""
        left_out = set(names)
        return Plan(one for one in self.proposals if one.name not in left_out)

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

    @torch.inference_mode(False)  # what is made in the caller's could not be trained
    def apply(
        self,
        model: nn.Module,
        *,
        inplace: bool = False,
        weights: bool = True,
        moments: Mapping[str, Moments] | None = None,
        hooks: Hooks = "refuse",
    ) -> nn.Module | Applied:
        """A copy of the model with the new layers; in place, the handle whose ``undo()`` takes it back.

        Args:
            weights: carry the trained weights over. False leaves the new layers random, for weights that
                are loaded next: the state_dict of a model that the same plan was applied to fits.
            moments: by the name of a layer, of its inputs (`archcost.weights.moments.collect`).
            hooks: "keep" has the new layers take over the hooks of the old ones.

        Raises:
            RewriteError: the model is not the one that the plan was made for, or one of its layers may not
                be replaced; the message names the module. Nothing has changed then.
        """
        work = model if inplace else copied(model)
        applied = Applied(work)
        self._check(work, hooks, weights)
        try:
            for one in self.proposals:
                given = None if moments is None else moments.get(one.name)
                made = _modules(work, one, weights, given)
                applied._handles[one.name] = replace(work, made, inplace=True, hooks=hooks)
        except BaseException:
            applied.undo()
            raise
        return applied if inplace else work

    def to_json(self, path: str | os.PathLike[str] | None = None, indent: int | None = 2) -> str | None:
        """All of it as JSON, into a file or returned; `from_json` reads it."""
        from archcost.rewriting.plan.plan_json import written

        return written(self.proposals, path, indent)

    @classmethod
    def from_json(cls, source: str | os.PathLike[str]) -> Plan:
        """What `to_json` wrote: its text, or the path of a file.

        Raises:
            RewriteError: it is no plan; the message says where.
        """
        from archcost.rewriting.plan.plan_json import read

        return cls(read(source))

    def to_python(self) -> str:
        """The new layers as source that a person can paste: a dict of modules by name, without weights."""
        from archcost.rewriting.plan.source import source_of

        return source_of(self.proposals)

    def _check(self, model: nn.Module, hooks: Hooks, weights: bool) -> None:
        """Whether this is a model that the plan fits."""
        known = {name: site for site in sites(model, hooks=hooks) for name in site.names}
        for one in self.proposals:
            said = f"{one.rule} of {one.name!r} is for another model"
            site = known.get(one.name)
            if site is not None and site.reason is not None:
                raise RewriteError(f"{one.name!r} cannot be replaced: {site.reason}")
            for name, kind in zip_longest(named_by(one.replacement), one.types):
                try:
                    module = model.get_submodule(name)
                except AttributeError:
                    raise RewriteError(f"{said}: this one has no module {name!r}") from None
                if kind is not None and type(module).__name__ != kind:
                    raise RewriteError(
                        f"{said}: {name!r} is a {type(module).__name__} here, and was a {kind}"
                    )
            if site is None:
                continue
            if weights and any(p.is_meta for p in site.module.parameters()):
                raise RewriteError(
                    f"{one.name!r} is on `meta` and has no weights to carry over: apply(..., weights=False)"
                )
            for what, there, asked in _differences(site.module, one.old[0]):
                raise RewriteError(f"{said}: its {what} is {there}, and the plan was made for {asked}")


def _differences(module: nn.Module, asked: ConvSpec) -> Iterator[tuple[str, Any, Any]]:
    """Where a convolution is not the one that a plan was made for: name, value here, value there."""
    like = ConvLike(module)
    for what in ("in_channels", "out_channels", "kernel_size", "stride", "dilation", "groups", "transposed"):
        if getattr(like, what) != getattr(asked, what):
            yield what, getattr(like, what), getattr(asked, what)
    there = replace_fields(like.spec(asked.input_size, asked.batch), bias=like.bias is not None)
    for what in ("padding", "padding_mode", "output_padding", "bias"):
        if getattr(there, what) != getattr(asked, what):
            yield what, getattr(there, what), getattr(asked, what)


def _modules(model: nn.Module, one: Proposal, weights: bool, moments: Moments | None) -> dict[str, nn.Module]:
    """The new modules of one proposal, made of the old ones."""
    there = {name: model.get_submodule(name) for name in named_by(one.replacement)}
    carried: Any = rules.get(one.rule).carry(there, one.replacement, moments) if weights else {}
    made = {}
    for name, chain in one.replacement.chains.items():
        made[name] = built(chain, there[name], carried.get(name, ()) if weights else None, there)
    return made
