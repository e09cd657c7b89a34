"""The package under test is the installed one, also for `python -m pytest`; times go into a store of its own.

That puts the checkout first on the path, whose kernels are compiled only where it is installed editable.
"""

import importlib.util
import os
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
PATH = sys.path[:]
# No test writes into the store of whoever runs it.
os.environ["ARCHCOST_STORE"] = ":memory:"

ASKED_FOR = [Path(entry).resolve() for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]

if ROOT not in ASKED_FOR:
    sys.path[:] = [entry for entry in PATH if Path(entry).resolve() != ROOT]
    if importlib.util.find_spec("archcost") is None:
        sys.path[:] = PATH  # installed editable, or not at all

# What is printed is as wide as in a pipe, also in the workers of pytest-xdist.
os.environ.pop("COLUMNS", None)
# The user's own store is neither read nor written, by no process that a test starts.
os.environ["ARCHCOST_STORE"] = os.path.join(tempfile.mkdtemp(prefix="archcost-tests-"), "store.sqlite")
