"""`check`, which holds the models of a project against their budgets and finds what could be cheaper."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from archcost.analysis.analysis import Forward, analyze_spec
from archcost.errors import ArchcostError, SpecError
from archcost.integrations.checking.case import Case, Files, Remark
from archcost.integrations.checking.codes import LEVELS, Level, selected
from archcost.integrations.checking.config import Config, ModelTable, read_config
from archcost.integrations.checking.context import context
from archcost.integrations.checking.costs import costs
from archcost.integrations.checking.findings import Failure, Said, grouped, ordered
from archcost.integrations.checking.ignores import Ignores
from archcost.integrations.checking.places import Place
from archcost.integrations.checking.result import CheckResult
from archcost.integrations.checking.rewrites import rewrites
from archcost.latency.store.store import opened
from archcost.progress import Progress
from archcost.report.text import near
from archcost.rewriting.survey.survey import Survey
from archcost.trace.sites import is_library

if TYPE_CHECKING:
    from archcost.latency.store.store import Store

__all__ = ["check"]

_LONGEST = 400
"""Characters of a failure's text."""


def check(
    models: str | Iterable[str] | None = None,
    *,
    config: str | os.PathLike[str] | None = None,
    level: Level | None = None,
    select: Iterable[str] | None = None,
    ignore: Iterable[str] = (),
    slower_too: bool = False,
    raise_failures: bool = False,
    input_size: Any = None,
    store: Store | str | os.PathLike[str] | Literal[False] | None = None,
    progress: bool | None = None,
) -> CheckResult:
    """Check the models of a project: budgets, receptive fields, and layers that could be cheaper.

    Models are built and counted, never run; nothing is measured and no file is written.

    Args:
        models: names of models in the configuration, or SPECs; by default every configured model.
        config: the file with ``[tool.archcost]``; by default the nearest pyproject.toml upwards that has it.
        level: findings of this level and above fail the check; by default that of the configuration.
        select: codes to look for, or beginnings or names of codes; by default those of the configuration.
        ignore: codes to leave out.
        slower_too: also report replacements that were measured to be slower on this machine.
        raise_failures: raise what a model's own code raises, instead of reporting it.
        input_size: that of the SPECs in ``models``, as in `archcost.analyze`.
        store: the store of measured times: a `Store`, a path, by default the user's own; False: none.
        progress: draw a progress bar on stderr; by default on a terminal.

    Returns:
        The findings by file and line, and the models that failed, which do not keep others from being
        checked.

    Raises:
        SpecError: the configuration cannot be read, or names of models or codes are unknown.
    """
    settings = read_config(config)
    gate = settings.level if level is None else level
    if gate not in LEVELS:
        raise SpecError(f"level is {gate!r}{near(str(gate), LEVELS)}")
    codes = selected(settings.rules if select is None else select, ignore)
    tables = _tables(settings, models, input_size)
    files = Files(settings.root, settings.exclude)
    ignores = Ignores(settings.root, settings.ignore)
    said: list[Said] = []
    failures: list[Failure] = []
    seen: dict[str, None] = {}
    hidden = 0
    with (
        opened(store) as there,
        _as_in_project(settings.root),
        Progress(len(tables), "checking", progress) as bar,
    ):
        loaded = _Loaded(settings.root)
        for table in tables:
            try:
                with loaded.beside(table):
                    case = _case(table, files, there, slower_too)
                    seen |= dict.fromkeys(_files(case))
                    for one in _remarks(case, codes):
                        if ignores.hides(case, one):
                            hidden += 1
                        else:
                            said.append((case, one))
            except (Exception, SystemExit) as error:  # whatever the model's own code raises
                if raise_failures:
                    raise
                failures.append(_failure(table, error, files))
            bar.step(label=f"checking {table.name}")
    findings = list(grouped(said))
    if "AC001" in codes and not failures and tables == settings.models:
        findings += ignores.unused(codes, seen)
    return CheckResult(
        ordered(findings), tuple(failures), tuple(one.name for one in tables), gate, codes, hidden
    )


def _tables(settings: Config, models: str | Iterable[str] | None, input_size: Any) -> tuple[ModelTable, ...]:
    """The models to check: all configured ones, or those named and the SPECs."""
    if models is None:
        if not settings.models:
            raise SpecError(
                "there is no model to check: give a SPEC, or add [tool.archcost.models.NAME] with "
                "spec = 'net.py:Net' to pyproject.toml"
            )
        if input_size is not None:
            raise SpecError("input_size goes with a SPEC; a configured model has its own in pyproject.toml")
        return settings.models
    known = {one.name: one for one in settings.models}
    asked = (models,) if isinstance(models, str) else tuple(models)
    for one in asked:
        if one not in known and ":" not in one:
            raise SpecError(
                f"there is no model {one!r}{near(one, known) if known else ''}; a SPEC has a ':', "
                "as in net.py:Net"
            )
    return tuple(known.get(one) or ModelTable(one, one, input_size) for one in dict.fromkeys(asked))


def _case(table: ModelTable, files: Files, store: Store | None, slower_too: bool) -> Case:
    options: Forward = {"dtype": table.dtype, "device": None, "progress": False}
    analysis, model = analyze_spec(table.spec, None, table.input_size, table.weights, options)
    survey = Survey(model, analysis.trace, analysis.costs, analysis.name, store=store)
    return Case(table, analysis, survey, files, slower_too)


def _remarks(case: Case, codes: Collection[str]) -> Iterator[Remark]:
    proposed = list(rewrites(case, codes))
    covered = {name for one in proposed for name in one.covers}
    yield from proposed
    for one in (*context(case), *costs(case)):
        if one.code in codes and not (one.code == "AC205" and one.module in covered):
            yield one


def _files(case: Case) -> Iterator[str]:
    """The files of the project that build modules of a model, and that of its SPEC."""
    for module in case.analysis.trace.modules:
        yield from (place.file for place, _ in case.chain(module))
    if case.table.place is not None:
        yield case.table.place.file


@contextlib.contextmanager
def _as_in_project(root: Path) -> Iterator[None]:
    """Import from the project root, write no bytecode, and keep what models print off stdout."""
    path, written = list(sys.path), sys.dont_write_bytecode
    sys.path.insert(0, str(root))
    sys.dont_write_bytecode = True
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        sys.path[:] = path
        sys.dont_write_bytecode = written


class _Loaded:
    """Modules that models import from their own folder: those of another folder may have the same names."""

    def __init__(self, root: Path) -> None:
        self.root = os.path.realpath(root)
        self.folder: str | None = None
        self.modules: set[str] = set()

    @contextlib.contextmanager
    def beside(self, table: ModelTable) -> Iterator[None]:
        source = table.spec.rpartition(":")[0]
        folder = os.path.dirname(os.path.realpath(source)) if source.endswith(".py") else self.root
        if folder != self.folder:
            for name in self.modules:
                sys.modules.pop(name, None)
            self.folder, self.modules = folder, set()
        before = set(sys.modules)
        try:
            yield
        finally:
            new = set(sys.modules) - before
            self.modules |= {name for name in new if self._is_beside(name, folder)}

    def _is_beside(self, name: str, folder: str) -> bool:
        if folder == self.root:
            return False
        file: str | None = getattr(sys.modules[name], "__file__", None)
        return file is not None and os.path.realpath(file).startswith(folder + os.sep)


def _failure(table: ModelTable, error: BaseException, files: Files) -> Failure:
    """The failure of a model, at the innermost line of the project that took part in it."""
    said = str(error) if isinstance(error, ArchcostError) else f"{type(error).__name__}: {error}"
    text = " ".join(said.replace(f"{files.root}{os.sep}", "").split())
    text = text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
    place = _innermost(error, files)
    if place is not None or not isinstance(error, ArchcostError):
        text += f"; archcost check {table.name} --debug shows the traceback"
    return Failure(table.name, text, place or table.place)


def _innermost(error: BaseException, files: Files) -> Place | None:
    found: Place | None = None
    one: BaseException | None = error
    while one is not None:
        if isinstance(one, SyntaxError) and one.filename and one.lineno and not is_library(one.filename):
            found = files.place_of(one.filename, one.lineno) or found
        trace: TracebackType | None = one.__traceback__
        while trace is not None:
            file = trace.tb_frame.f_code.co_filename
            if not file.startswith("<") and not is_library(file):
                found = files.place_of(file, trace.tb_lineno) or found
            trace = trace.tb_next
        one = one.__cause__ or one.__context__
    return found
