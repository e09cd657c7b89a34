"""The pytest plugin: budgets and baselines of models as fixtures, with a section in pytest's report.

Only pytest and the standard library are imported until a fixture is used.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest

if TYPE_CHECKING:
    from torch import nn

    from archcost.analysis.analysis import Analysis
    from archcost.integrations.baseline import Record

FIXTURES = {"archcost_budget", "archcost_baseline"}


class CheckBudget(Protocol):
    """The fixture ``archcost_budget``: `archcost.assert_cost` with ``name``, the model's in the baseline."""

    def __call__(
        self, model: nn.Module | str, inputs: Any = None, *, name: str | None = None, **limits: Any
    ) -> Analysis: ...


class CheckBaseline(Protocol):
    """The fixture ``archcost_baseline``: compare a model with the baseline, up to ``rel`` of each number."""

    def __call__(
        self, name: str, model: nn.Module | str, inputs: Any = None, *, rel: float = 0.0, **how: Any
    ) -> Analysis: ...


@dataclass
class _Session:
    """The baseline of a test session, and what its tests found."""

    file: Path
    update: bool
    ratchet: bool
    in_ci: bool
    found: dict[str, Record] = field(default_factory=dict)
    """The records of this session, by the name of the model."""
    lines: list[str] = field(default_factory=list)
    """Lines of the section in pytest's report."""
    _records: dict[str, Record] | None = None

    @property
    def shown(self) -> str:
        """The file relative to the working directory, where it lies below it."""
        here = Path.cwd()
        return str(self.file.relative_to(here) if self.file.is_relative_to(here) else self.file)

    @property
    def records(self) -> dict[str, Record]:
        """The records of the file."""
        if self._records is None:
            from archcost.integrations.baseline import read

            self._records = read(self.file)
        return self._records

    def check(self, name: str, analysis: Analysis, rel: float) -> None:
        """Compare a model with its record; raises CostError where it is dearer or, in CI, has none."""
        __tracebackhide__ = True
        from archcost.errors import CostError, InputError
        from archcost.integrations.baseline import changes, explained, record_of, verdict

        new = record_of(analysis)
        if self.found.setdefault(name, new) != new:
            raise InputError(f"archcost_baseline: two models have the name {name!r}; give each its own")
        old = self.records.get(name)
        if self.update:
            return
        if old is None:
            if self.in_ci:
                raise CostError(f"{name} is not in {self.shown}: {_MEND}")
            return
        changed = changes(old, new, rel)
        dearer = [one for one in changed if one.is_dearer]
        if dearer or (changed and self.ratchet):
            lines = [f"  {one}" for one in changed]
            lines += (f"    {line}" for line in explained(old, analysis, (dearer or changed)[0].measure))
            head = f"{name} {verdict(changed)} its baseline"
            raise CostError("\n".join([head, *lines, f"  if that is meant, {_MEND}"]))
        if changed:
            cheaper = "; ".join(map(str, changed))
            self.lines.append(f"{name} {verdict(changed)} its baseline: {cheaper}; {_MEND}")

    def write(self) -> None:
        """Write the records that are new, with ``--archcost-update`` all that were found."""
        from archcost.integrations.baseline import written

        new = {n: r for n, r in self.found.items() if self.update or n not in self.records}
        changed = {name: record for name, record in new.items() if self.records.get(name) != record}
        if changed and (self.update or not self.in_ci):
            self.file.parent.mkdir(parents=True, exist_ok=True)
            self.file.write_text(written({**self.records, **changed}), encoding="utf-8")
            self.lines.append(f"written to {self.shown}: {', '.join(sorted(changed))}")


@contextmanager
def _short_errors() -> Iterator[None]:
    """Errors of inputs and limits as a line without a traceback; a CostError is an assertion that failed."""
    __tracebackhide__ = True
    from archcost.errors import ArchcostError, CostError

    try:
        yield
    except CostError:
        raise
    except ArchcostError as error:
        pytest.fail(f"{type(error).__name__}: {error}", pytrace=False)


_MEND = "run pytest --archcost-update and commit the file"
_KEY = pytest.StashKey[_Session]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--archcost-update``."""
    parser.getgroup("archcost").addoption(
        "--archcost-update", action="store_true", help="write what models cost now into archcost's baseline"
    )


def _session(config: pytest.Config) -> _Session:
    """The state of the session, made when a fixture is first used."""
    if _KEY not in config.stash:
        from archcost.integrations.checking.config import read_config

        settings = read_config(start=config.rootpath)
        config.stash[_KEY] = _Session(
            file=config.rootpath / settings.baseline,
            update=config.getoption("archcost_update"),
            ratchet=settings.ratchet,
            in_ci=os.environ.get("CI", "").lower() not in ("", "0", "false"),
        )
    return config.stash[_KEY]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Record where modules are built in tests that use a fixture, their other fixtures included."""
    if FIXTURES.isdisjoint(getattr(item, "fixturenames", ())):
        return (yield)
    from archcost.trace.sites import recording_sites

    with recording_sites():
        return (yield)


@pytest.fixture
def archcost_budget(request: pytest.FixtureRequest) -> CheckBudget:
    """Hold a model to a budget: ``archcost_budget(model, inputs, max_macs="4.2G")``, as `assert_cost` does.

    ``name`` is that of the model in the baseline; where the budget breaks, changes since then are shown.
    """

    def check(
        model: nn.Module | str, inputs: Any = None, *, name: str | None = None, **limits: Any
    ) -> Analysis:
        __tracebackhide__ = True
        from archcost.analysis.analysis import analyze
        from archcost.analysis.budget import MEASURES, Budget
        from archcost.errors import CostError
        from archcost.integrations.asserting import broken, message

        with _short_errors():
            how = {key: limits.pop(key) for key in ("input_size", "dtype") if key in limits}
            clock = {key: limits.pop(key) for key in ("reference", "seconds") if key in limits}
            budget = Budget.of(limits, "archcost_budget: ")
            analysis = analyze(model, inputs, progress=False, **how)
            session = _session(request.config)
            breaches = broken(budget, analysis, inputs, **clock)
            if breaches:
                raise CostError(message(analysis, breaches, session.records.get(name or analysis.name)))
            used = [
                f"{key} {one.show(one.of(analysis) or 0)} of {one.show(limit)}"
                for key, one in MEASURES.items()
                if isinstance(limit := getattr(budget, f"max_{key}"), int)
            ]
            session.lines.append(
                f"{name or request.node.name}: {', '.join(used)}" if used else f"{name}: kept"
            )
        return analysis

    return check


@pytest.fixture
def archcost_baseline(request: pytest.FixtureRequest) -> CheckBaseline:
    """Compare a model with the baseline: ``archcost_baseline("resnet50", model, inputs, rel=0.0)``.

    A model that costs more fails; one that costs less is reported, and with ``ratchet = true`` fails as well.
    A model that is not in the file is written to it, but fails where the environment variable CI is set.
    """

    def check(
        name: str, model: nn.Module | str, inputs: Any = None, *, rel: float = 0.0, **how: Any
    ) -> Analysis:
        __tracebackhide__ = True
        from archcost.analysis.analysis import analyze

        with _short_errors():
            analysis = analyze(model, inputs, progress=False, **how)
            _session(request.config).check(name, analysis, rel)
        return analysis

    return check


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Take over what a worker of pytest-xdist found."""
    sent = getattr(node, "workeroutput", {}).get("archcost")
    if sent is not None:
        from archcost.integrations.baseline import Record

        session, whole = _session(node.config), json.loads(sent)
        for name, record in whole["found"].items():
            if session.found.setdefault(name, Record(**record)) != Record(**record):
                session.lines.append(f"two models have the name {name!r}; give each its own")
        session.lines += whole["lines"]


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the baseline; a worker of pytest-xdist sends what it found to the controller."""
    state = session.config.stash.get(_KEY, None)
    if state is None:
        return
    output = getattr(session.config, "workeroutput", None)
    if output is None:
        from archcost.errors import ArchcostError

        try:
            state.write()
        except (ArchcostError, OSError) as error:
            state.lines.append(f"the baseline was not written: {error}")
    else:
        found = {name: asdict(record) for name, record in state.found.items()}
        output["archcost"] = json.dumps({"found": found, "lines": state.lines})


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Show the costs of the models that kept their budgets, what became cheaper, and what was written."""
    state = config.stash.get(_KEY, None)
    if state is not None and state.lines:
        terminalreporter.section("archcost")
        for line in state.lines:
            terminalreporter.write_line(line)
