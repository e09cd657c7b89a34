"""Memory that is left, to the machine and to the control groups of either version."""

from math import inf
from pathlib import Path

import pytest

from archcost.engine.available import available_bytes

GIB = 1 << 30


def system(folder, files):
    for name, text in files.items():
        path = Path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Path(folder)


MACHINE = {"proc/meminfo": f"MemTotal: {8 * GIB // 1024} kB\nMemAvailable:   {4 * GIB // 1024} kB\n"}
SECOND = {
    "proc/self/cgroup": "0::/here/inner\n",
    "sys/fs/cgroup/here/inner/memory.max": "max\n",
    "sys/fs/cgroup/here/inner/memory.current": f"{GIB}\n",
    "sys/fs/cgroup/here/memory.max": f"{2 * GIB}\n",
    "sys/fs/cgroup/here/memory.current": f"{GIB}\n",
    "sys/fs/cgroup/here/memory.stat": f"anon 5\ninactive_file {GIB // 2}\n",
}
FIRST = {
    "proc/self/cgroup": "5:devices:/\n4:memory:/elsewhere\n0::/\n",  # as it is called outside of a container
    "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{3 * GIB}\n",
    "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{GIB}\n",
    "sys/fs/cgroup/memory/memory.stat": "inactive_file 1\ntotal_inactive_file 7\n",
}


@pytest.mark.parametrize(
    ("files", "left"),
    [
        ({}, inf),
        (MACHINE, 4 * GIB),
        (MACHINE | SECOND, 1.5 * GIB),
        (MACHINE | FIRST, 2 * GIB + 7),
        (MACHINE | FIRST | {"sys/fs/cgroup/memory/memory.limit_in_bytes": f"{2**63 - 4096}\n"}, 4 * GIB),
    ],
)
def test_the_least_that_is_left_counts(tmp_path, files, left):
    assert available_bytes(system(tmp_path, files)) == left
