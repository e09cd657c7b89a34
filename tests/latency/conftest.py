"""Stores of a test's own."""

import pytest


@pytest.fixture
def place(tmp_path):
    return tmp_path / "deep" / "store.sqlite"
