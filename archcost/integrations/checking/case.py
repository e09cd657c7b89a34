"""Case: one analysed model, the lines of the project that build its modules, and remarks on them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from archcost.analysis.analysis import Analysis
from archcost.integrations.checking.config import ModelTable
from archcost.integrations.checking.places import Place
from archcost.rewriting.survey.survey import Subject, Survey
from archcost.spec import ConvSpec

if TYPE_CHECKING:
    from archcost.fields.findings import Finding
    from archcost.trace.sites import Frame, Site

__all__ = ["Case", "Files", "Gain", "Related", "Remark", "described"]


@dataclass(frozen=True)
class Files:
    """The files that belong to the project: under its root, of no library, and not excluded."""

    root: Path
    exclude: tuple[str, ...] = ()

    def place(self, frame: Frame) -> Place | None:
        """The frame's line, relative to the root; None where it is not the project's."""
        return None if frame.is_library else self.place_of(frame.file, frame.line, frame.column)

    def place_of(self, file: str, line: int, column: int | None = None) -> Place | None:
        path = os.path.relpath(os.path.realpath(file), os.path.realpath(self.root)).replace(os.sep, "/")
        if path.startswith("../") or os.path.isabs(path):
            return None
        excluded = any(fnmatchcase(path, p) or fnmatchcase(path, f"{p.rstrip('/')}/*") for p in self.exclude)
        return None if excluded else Place(path, line, column)


@dataclass(frozen=True)
class Related:
    """Another line that belongs to a finding."""

    place: Place
    text: str


@dataclass(frozen=True)
class Gain:
    """Costs of layers before and after a change, and their measured times where they are known."""

    params: tuple[int, int]
    macs: tuple[int, int]
    ms: tuple[float, float] | None = None
    disturbed: bool = False
    """Whether a time is unreliable, because other processes interrupted its samples."""

    def __add__(self, other: Gain) -> Gain:
        both = self.ms is not None and other.ms is not None
        return Gain(
            _sum(self.params, other.params),
            _sum(self.macs, other.macs),
            (self.ms[0] + other.ms[0], self.ms[1] + other.ms[1]) if both else None,  # type: ignore[index]
            self.disturbed or other.disturbed,
        )


def _sum(one: tuple[int, int], other: tuple[int, int]) -> tuple[int, int]:
    return one[0] + other[0], one[1] + other[1]


@dataclass(frozen=True)
class Remark:
    """A remark of one code on one module, before those on the same line become one finding."""

    code: str
    module: str
    """Its first name; empty for the model itself."""
    what: str
    """The module in words: ``Conv2d(64, 64, 5)``."""
    says: str
    """The remark, in words that follow ``what``: ``as two 3x3``."""
    then: str = ""
    """Words behind the gain."""
    gain: Gain | None = None
    spec: ConvSpec | None = None
    key: str = ""
    """The part that tells it from others of its code on this module, such as the limit of a budget."""
    covers: tuple[str, ...] = ()
    """Modules on which it says the same as AC205 would."""
    place: Place | None = None
    """The line, where it is not the one that builds the module."""
    related: tuple[Related, ...] = ()


@dataclass(frozen=True, eq=False)
class Case:
    """An analysed model of the configuration."""

    table: ModelTable
    analysis: Analysis
    survey: Survey
    files: Files
    slower_too: bool = False
    """Whether proposals that were measured to be slower are remarked on too."""
    _chains: dict[str, tuple[tuple[Place, str], ...]] = field(default_factory=dict, repr=False)

    @cached_property
    def open(self) -> list[Subject]:
        """The convolutions that are called, and of which the computation is known."""
        return [one for one in self.survey if one.specs]

    @cached_property
    def fields_findings(self) -> tuple[Finding, ...]:
        """The findings about receptive fields; none where they cannot be computed."""
        fields = self.analysis.fields_or_none
        return () if fields is None else fields.findings

    def type_name(self, module: str) -> str:
        return self.analysis.trace.modules[module].type_name

    def site(self, module: str) -> Site | None:
        info = self.analysis.trace.modules.get(module)
        return None if info is None else info.built_at

    def chain(self, module: str) -> tuple[tuple[Place, str], ...]:
        """The lines of the project that led to a module, the innermost first, with their functions.

        A module that no line of the project built, such as a copied one, has those of the module around it.
        """
        if module not in self._chains:
            site = self.site(module)
            pairs = ((self.files.place(one), one.function) for one in (site.frames if site else ()))
            own = tuple((place, name) for place, name in pairs if place is not None)
            self._chains[module] = own or (self.chain(module.rpartition(".")[0]) if module else ())
        return self._chains[module]

    def elsewhere(self, module: str) -> str:
        """The library's line that built a module, where no line of the project did; else empty."""
        site = self.site(module)
        return "" if site is None or self.chain(module) else str(site)

    @cached_property
    def built(self) -> dict[Place | str, int]:
        """The number of convolutions that each line builds."""
        found: dict[Place | str, int] = {}
        for subject in self.survey:
            where = self.where(subject.name)
            found[where] = found.get(where, 0) + 1
        return found

    def where(self, module: str) -> Place | str:
        """The line to report for a module: the project's, that of its SPEC, or a library's as text."""
        chain = self.chain(module)
        return chain[0][0] if chain else self.table.place or self.elsewhere(module) or self.table.spec

    def lines(self, remark: Remark) -> Iterator[Place]:
        """Every line on which an ignore comment holds for a remark."""
        if remark.place is not None:
            yield remark.place
        yield from (place for place, _ in self.chain(remark.module))
        yield from (one.place for one in remark.related)
        if self.table.place is not None:
            yield self.table.place


def described(subject: Subject) -> str:
    """A convolution as it is written: ``Conv2d(64, 64, 5, stride=2)``."""
    spec = subject.spec
    said = [str(spec.in_channels), str(spec.out_channels), _one(spec.kernel_size)]
    said += [f"stride={_one(spec.stride)}"] * (max(spec.stride) > 1)
    said += [f"dilation={_one(spec.dilation)}"] * (max(spec.dilation) > 1)
    said += [f"groups={spec.groups}"] * (spec.groups > 1)
    return f"{subject.type_name}({', '.join(said)})"


def _one(sizes: tuple[int, ...]) -> str:
    return str(sizes[0] if len(set(sizes)) == 1 else sizes)
