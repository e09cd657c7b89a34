"""The pytest plugin in sessions of its own: budgets, baselines, xdist, and what it costs unused."""

import importlib.util
import json
import re
import subprocess
import sys

import pytest
from _pytest import pytester as pytester_plugin

import archcost
from archcost.integrations import pytest_plugin

NET = """
from torch import nn


class Net(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3)
        self.wide = nn.Conv2d(width, width, 5)

    def forward(self, x):
        return self.wide(self.stem(x))
"""
TESTS = """
import pytest
from net import Net


@pytest.fixture
def net():
    return Net()


def test_budget(net, archcost_budget):
    archcost_budget(net, input_size=(1, 3, 16, 16), max_macs="300k", max_params="1.9k", name="net-8")


@pytest.mark.parametrize("width", [8, 9])
def test_baseline(width, archcost_baseline):
    archcost_baseline(f"net-{width}", Net(width), input_size=(1, 3, 16, 16))
"""


@pytest.fixture
def repository(pytester, monkeypatch):
    monkeypatch.delenv("CI", raising=False)
    pytester.makepyprojecttoml('[tool.pytest.ini_options]\npythonpath = ["."]\n')
    pytester.makepyfile(net=NET, test_net=TESTS)
    return pytester


SESSION = "import sys, pytest\nsys.exit(pytest.main(sys.argv[1:]))"
# Plugins that take a second to import.
WITHOUT = ("-p", "no:cacheprovider", "-p", "no:hypothesispytest", "-p", "no:anyio")


def run(pytester, *arguments):
    return pytester.runpytest_subprocess(*WITHOUT, *arguments)


@pytest.fixture
def session(repository, warm):
    """A session of its own that need not import torch anew: its outcomes, and its lines."""

    def run(**environment):
        # The warm process was started in the environment of the first test that asked for it.
        done = warm.run(SESSION, *WITHOUT, **{"CI": "", **environment})
        lines = done.stdout.splitlines()
        return pytester_plugin.RunResult.parse_summary_nouns(lines), pytest.LineMatcher(lines)

    return run


def test_a_budget_and_a_baseline_break_with_the_line_and_are_written_again(repository, session):
    outcomes, lines = session()
    assert outcomes == {"passed": 3}
    lines.fnmatch_lines(
        [
            "*= archcost =*",
            "net-8: params 1,832 of 1,900, macs 202 k of 300 k",
            "written to tests/archcost-baseline.json: net-8, net-9",
        ]
    )
    file = repository.path / "tests/archcost-baseline.json"
    models = json.loads(file.read_text())["models"]
    assert models["net-8"]["params"] == 1832

    text = (repository.path / "net.py").read_text()
    (repository.path / "net.py").write_text(text.replace("width, width, 5", "width, width, 7"))
    file.write_text(json.dumps({"schema": "archcost.baseline/1", "models": {"net-8": models["net-8"]}}))
    outcomes, lines = session(CI="true")
    assert outcomes == {"failed": 3}
    lines.fnmatch_lines(
        [
            "*Net (1x3x16x16 float32) exceeds its budget",
            "*max_params: 3,368 parameters, 1,468 (77.3 %) above 1,900",
            "*wide (Conv2d): 3,144, built at net.py:8:21" if sys.version_info >= (3, 11) else "*net.py:8",
            "*since the baseline, params:",
            "*wide (Conv2d) changed: +1,536 parameters, built at net.py:8*",
            "*net-8 is dearer than its baseline",
            "*macs: 202 k -> *",
            "*wide (Conv2d) changed: * MACs, built at net.py:8*",
            "*net-9 is not in tests/archcost-baseline.json: run pytest --archcost-update and commit the file",
        ]
    )
    lines.no_fnmatch_line("*archcost/integrations/*")


@pytest.mark.slow
def test_the_baseline_is_written_again_by_the_workers_of_xdist(repository):
    parallel = ["-n", "2"] if importlib.util.find_spec("xdist") else []
    run(repository, "-k", "baseline").assert_outcomes(passed=2)
    text = (repository.path / "net.py").read_text()
    (repository.path / "net.py").write_text(text.replace("width, width, 5", "width, width, 7"))
    again = run(repository, "--archcost-update", "-k", "baseline", *parallel)
    again.assert_outcomes(passed=2)
    again.stdout.fnmatch_lines(["written to tests/archcost-baseline.json: net-8, net-9"])
    file = repository.path / "tests/archcost-baseline.json"
    assert json.loads(file.read_text())["models"]["net-8"]["params"] == 3368


def test_a_session_that_does_not_use_it_loads_nothing_heavy_and_can_do_without(pytester):
    pytester.makepyfile(
        test_light="""
        import sys

        def test_light(pytestconfig):
            assert pytestconfig.pluginmanager.has_plugin("archcost")
            heavy = {"torch", "numpy", "pandas", "archcost.analysis", "archcost.errors"} & set(sys.modules)
            assert not heavy

        def test_the_fixture_makes_the_difference(archcost_budget, pytestconfig):
            import archcost

            archcost.SpecError
            assert "archcost.errors" in sys.modules
        """
    )
    run(pytester).assert_outcomes(passed=2)
    without = run(pytester, "-p", "no:archcost")
    without.assert_outcomes(failed=1, errors=1)


def test_the_plugin_alone_imports_a_handful_of_modules():
    code = (
        "import sys, pytest, _pytest.config; before = set(sys.modules); "
        "import archcost.integrations.pytest_plugin; print(*sorted(set(sys.modules) - before))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = run.stdout.split()
    assert "archcost.integrations.pytest_plugin" in loaded
    assert len([name for name in loaded if "." not in name]) < 12, loaded


def test_the_settings_of_the_project_are_read_and_a_wrong_one_is_named_with_its_line(tmp_path):
    class Options:
        rootpath = tmp_path

        def __init__(self):
            self.stash = pytest.Stash()

        def getoption(self, name):
            return False

    file = tmp_path / "pyproject.toml"
    file.write_text('[tool.archcost]\nbaseline = "cost.json"\nratchet = true\n')
    found = pytest_plugin._session(Options())
    assert (found.file, found.ratchet) == (tmp_path / "cost.json", True)
    for line, said in [
        ("rachet = true", "unknown key 'rachet'"),
        ("ratchet = 1", "ratchet is 1; write true or false"),
        ("baseline = []", "baseline is []; write the path of a file"),
    ]:
        file.write_text(f"[tool.archcost]\n{line}\n")
        with pytest.raises(archcost.SpecError, match=rf"pyproject\.toml:2: {re.escape(said)}"):
            pytest_plugin._session(Options())


def test_a_baseline_that_cannot_be_read_is_a_line_and_stays_as_it_is(tmp_path):
    file = tmp_path / "b.json"
    file.write_text("<<<<<<< a conflict")
    state = pytest_plugin._Session(file, update=True, ratchet=False, in_ci=False, found={"net": None})

    class Finished:
        class config:
            stash = pytest.Stash()

    Finished.config.stash[pytest_plugin._KEY] = state
    pytest_plugin.pytest_sessionfinish(Finished)
    (line,) = state.lines
    assert line.startswith("the baseline was not written: ")
    assert "is not a baseline of archcost" in line
    assert file.read_text() == "<<<<<<< a conflict"


def test_a_limit_that_cannot_be_read_fails_in_one_line(archcost_budget):
    with pytest.raises(pytest.fail.Exception) as raised:
        archcost_budget(None, max_macs="26 millions")
    assert str(raised.value).startswith("InputError: archcost_budget: max_macs: cannot read '26 millions'")
    assert not raised.value.pytrace


def test_two_workers_that_give_two_models_one_name_are_told(tmp_path):
    class Config:
        stash = pytest.Stash()

    state = pytest_plugin._Session(tmp_path / "b.json", update=False, ratchet=False, in_ci=False)
    Config.stash[pytest_plugin._KEY] = state

    class Node:
        config = Config

        def __init__(self, macs):
            found = {"net": {"totals": {"macs": macs}, "blocks": {}, "level": 1}}
            self.workeroutput = {"archcost": json.dumps({"found": found, "lines": []})}

    for macs in (1, 1):
        pytest_plugin.pytest_testnodedown(Node(macs), None)
    assert state.lines == []
    pytest_plugin.pytest_testnodedown(Node(2), None)
    assert state.lines == ["two models have the name 'net'; give each its own"]
    assert state.found["net"].totals == {"macs": 1}
