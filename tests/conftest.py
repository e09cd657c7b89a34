"""The package under test is the installed one, also for `python -m pytest`; times go into a store of its own.

That puts the checkout first on the path, whose kernels are compiled only where it is installed editable.
"""

import gc
import os
import sys
import tempfile
from importlib.machinery import PathFinder
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PATH = sys.path[:]
ASKED_FOR = [Path(entry).resolve() for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]

if ROOT not in ASKED_FOR:
    sys.path[:] = [entry for entry in PATH if Path(entry).resolve() != ROOT]
    found = PathFinder.find_spec("archcost", sys.path)
    if found is None:
        sys.path[:] = PATH  # installed editable, or not at all
    elif getattr(sys.modules.get("archcost"), "__file__", found.origin) != found.origin:
        # The pytest plugin came from the checkout: all else comes from the installed package.
        for name in [name for name in sys.modules if name.split(".")[0] == "archcost"]:
            del sys.modules[name]

# What is printed is as wide as in a pipe, also in the workers of pytest-xdist.
os.environ.pop("COLUMNS", None)
# The user's own store is neither read nor written, by no process that a test starts.
os.environ["ARCHCOST_STORE"] = os.path.join(tempfile.mkdtemp(prefix="archcost-tests-"), "store.sqlite")
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # a core each


def pytest_xdist_auto_num_workers(config):
    """Of the whole suite a worker a core, four at most; of files that are named none."""
    named = config.args_source is not config.ArgsSource.TESTPATHS
    return 0 if named else min(4, os.cpu_count())


def pytest_collection_finish():
    """Leave out what collection made from later garbage collections, which would take half a second each."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def seeded():
    """Random numbers are the same in every run, whichever tests ran before."""
    import torch

    torch.manual_seed(0)


@pytest.fixture
def no_roofline(monkeypatch):
    """The roofline of no machine, in place of one that takes a second to measure."""
    from archcost.latency.prediction.roofline import Roofline

    line = Roofline(50e9, 8e9, threads=1, dtype="float32", device="as an example")
    monkeypatch.setattr(
        "archcost.latency.prediction.roofline.measure_roofline", lambda *args, **options: line
    )


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Writes a `net.py` where the test then is, and returns the SPEC of a name in it."""

    def write(text, name="net"):
        (tmp_path / "net.py").write_text(text)
        monkeypatch.chdir(tmp_path)
        return f"net.py:{name}"

    return write


@pytest.fixture(scope="session")
def warm(tmp_path_factory):
    """Runs programs as processes that have imported torchvision already, for it takes seconds."""
    from helpers.warm import Warm

    made = Warm(tmp_path_factory.mktemp("warm"), "torchvision")
    yield made
    made.close()


@pytest.fixture(scope="session")
def only_torch(tmp_path_factory):
    """Runs programs as processes that have imported torch and nothing that torch imports later."""
    from helpers.warm import Warm

    made = Warm(tmp_path_factory.mktemp("torch"), "torch")
    yield made
    made.close()
