"""Measurements as they are stored."""

import sqlite3
from pathlib import Path

from archcost import ConvSpec
from archcost.latency.store.store import Key, Measurement

TESTS = Path(__file__).parents[1]  # where other processes find this module
SPEC = ConvSpec(64, 64, 3, padding=1, input_size=(56, 56))


def measured(spec=SPEC, path="winograd-4", at=1000.0, median=0.002, device="a machine", mark="f" * 16, **key):
    return Measurement(
        Key(mark, spec, key.pop("dtype", "float32"), path, **key), device, median, 0.0001, 9, 1,
        "cpu", "2.9", disturbed=False, error=1e-6, workspace_bytes=4096, measured_at=at,
    )  # fmt: skip


def foreign_database(path):
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE theirs (precious)")
    connection.close()
