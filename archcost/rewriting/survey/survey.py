"""Survey: what can be exchanged in one model, and what precedes and follows it. Made once, and handed on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeVar

from torch import nn

from archcost.analysis.analysis import Analysis
from archcost.cost.costs import Costs
from archcost.errors import SpecError
from archcost.latency.store.store import Store
from archcost.rewriting.survey.subjects import Subject, subject_at
from archcost.surgery.elsewhere import used_elsewhere
from archcost.surgery.sites import Hooks, held_elsewhere, sites
from archcost.trace.dataflow import Dataflow
from archcost.trace.graph import Trace
from archcost.trace.modules import ModuleTree, no_convolution, walk
from archcost.weights.moments import Moments

__all__ = ["Survey", "survey_of"]

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Survey:
    """One pass of one model: its convolutions by name, and whatever a rule may ask of what lies around them.

    ``for subject in survey`` goes through them in order of definition.
    """

    model: nn.Module
    trace: Trace
    costs: Costs
    name: str = "the model"
    """As messages call the model."""
    hooks: Hooks = "refuse"
    """Whether layers with hooks may be replaced: "keep", where the new ones take them over."""
    store: Store | None = None
    """Where measured times are looked up; None: nowhere."""
    moments: dict[str, Moments] = field(default_factory=dict, repr=False)
    """By the name of a layer, of its inputs, where somebody has data: empty to begin with."""
    _found: dict[Any, Any] = field(default_factory=dict, repr=False)

    def __iter__(self) -> Iterator[Subject]:
        return iter(self.subjects.values())

    @cached_property
    def subjects(self) -> dict[str, Subject]:
        """By the first name of each; only those without a `Subject.refusal` can be replaced."""
        made = self.flow.convolutions()
        found = sites(self.model, trace=self.trace, hooks=self.hooks)
        return {site.name: subject_at(self, site, made.get(site.name, ())) for site in found}

    @cached_property
    def neighbours(self) -> dict[str, Subject]:
        """The same for what is merged or moved with another: hooks on it would see something else."""
        return self.subjects if self.hooks == "refuse" else replace(self, hooks="refuse").subjects

    @cached_property
    def flow(self) -> Dataflow:
        """Who makes and who takes each tensor of the pass."""
        return Dataflow(self.trace)

    @cached_property
    def tree(self) -> ModuleTree:
        """Every module, with all its names."""
        return walk(self.model)

    @cached_property
    def readers(self) -> dict[str, tuple[str, ...]]:
        """By the name of a module, the others that read or write a parameter of its own."""
        return used_elsewhere(self.trace)

    @cached_property
    def held(self) -> dict[int, str]:
        """By the id of a module, where the model holds it beside its registration."""
        return held_elsewhere(self.tree)

    @cached_property
    def owners(self) -> dict[int, set[int]]:
        """By the id of a parameter, those of all modules that have it."""
        found: dict[int, set[int]] = {}
        for module in self.tree.modules.values():
            for parameter in module._parameters.values():
                if parameter is not None:
                    found.setdefault(id(parameter), set()).add(id(module))
        return found

    def once(self, find: Callable[..., T], *about: Any) -> T:
        """What ``find(survey, *about)`` gives: looked into once, and kept as long as the survey."""
        key = (find, *about)
        if key not in self._found:
            self._found[key] = find(self, *about)
        found: T = self._found[key]
        return found

    def meant(self, name: str) -> list[Subject]:
        """The convolutions that a name, or a pattern such as ``features.*``, means.

        Raises:
            SpecError: there is none; the message has what is spelt alike.
        """
        found = [one for one in self if one.is_meant_by(name)]
        if not found:
            known = [one for subject in self for one in subject.names]
            raise SpecError(no_convolution(self.name, name, known, self.trace.modules))
        return found


def survey_of(analysis: Analysis, *, hooks: Hooks = "refuse", store: Store | None = None) -> Survey:
    """That of an analysed model.

    Raises:
        ModelError: the model is gone.
    """
    return Survey(analysis.model, analysis.trace, analysis.costs, analysis.name, hooks, store)
