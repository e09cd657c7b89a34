"""accelerate freezes what the garbage collector sees, unless somebody did before: here nobody did."""

import gc

import pytest


@pytest.fixture(autouse=True, scope="module")
def nothing_frozen():
    gc.unfreeze()
    yield
    gc.collect()
    gc.freeze()
