"""What the pytest plugin costs a session that does not use it: CPU time with and without, alternating."""

import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median, quantiles

ROUNDS = 25


def seconds(folder, *options):
    """CPU seconds of a pytest session of one empty test."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, env={**os.environ, "CI": ""})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main():
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "test_empty.py").write_text("def test_empty():\n    pass\n", encoding="utf-8")
        pairs = [(seconds(folder), seconds(folder, "-p", "no:archcost")) for _ in range(ROUNDS)]
    extra = [1e3 * (with_it - without) for with_it, without in pairs]
    low, _, high = quantiles(extra, n=4)
    print(f"a session without the plugin: {1e3 * median(b for _, b in pairs):.0f} ms of CPU")
    print(f"with it: {median(extra):+.1f} ms (quartiles {low:+.1f} to {high:+.1f}, {ROUNDS} pairs)")


if __name__ == "__main__":
    main()
