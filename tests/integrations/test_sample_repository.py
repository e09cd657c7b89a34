"""The sample repository: all is well as it stands; once its model is broken, each tool names the line."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SAMPLE = Path(__file__).parents[2] / "examples/repository"
AUTHOR = {f"GIT_{who}_{what}": "x@y" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
DIFF = ("diff", "net.py:Net@HEAD", "net.py:Net", "--input-size", "1,3,32,32", "--fail-on", "macs>+5%")


@pytest.fixture
def repository(tmp_path):
    """A copy of the sample under git, and a function that runs a command of Python's there."""
    folder = tmp_path / "sample"
    shutil.copytree(SAMPLE, folder, ignore=shutil.ignore_patterns("__pycache__"))

    def run(*arguments, program=(sys.executable, "-m")):
        env = {**os.environ, **AUTHOR, "CI": "true", "PYTHONDONTWRITEBYTECODE": "1"}
        env.pop("GITHUB_STEP_SUMMARY", None)
        return subprocess.run([*program, *arguments], cwd=folder, env=env, capture_output=True, text=True)

    for command in (("init", "-q"), ("add", "-A"), ("commit", "-qm", "the sample")):
        assert run(*command, program=("git",)).returncode == 0
    return folder, run


@pytest.mark.slow
def test_check_pytest_and_diff_name_the_line_that_breaks_the_model(repository):
    folder, run = repository
    pytest_ = ("pytest", "-p", "no:cacheprovider")
    for command in (("archcost", "check"), pytest_):
        done = run(*command)
        assert done.returncode == 0, done.stdout + done.stderr

    net = folder / "net.py"
    text = net.read_text(encoding="utf-8")
    line = text.splitlines().index(next(x for x in text.splitlines() if "self.conv2 =" in x)) + 1
    net.write_text(
        text.replace(
            "self.conv2 = nn.Conv2d(channels, channels, 3, padding=1",
            "self.conv2 = nn.Conv2d(channels, channels, 5, padding=2",
        ),
        encoding="utf-8",
    )

    check = run("archcost", "check")
    assert check.returncode == 1, check.stderr
    assert f"net.py:{line}:" in next(x for x in check.stdout.splitlines() if "max_macs" in x)
    tests = run(*pytest_)
    assert tests.returncode == 1
    assert "max_macs: 27.0 M MACs, 12.0 M (79.7 %) above 15.0 M" in tests.stdout
    assert f"blocks.0.conv2 and 2 more (Conv2d): 19.7 M, built at net.py:{line}:" in tests.stdout
    assert tests.stdout.count(f"built at net.py:{line}:") > 3
    diff = run("archcost", *DIFF)
    assert diff.returncode == 1, diff.stderr
    assert "❌ macs>+5%: MACs 14.4 M -> 27.0 M" in diff.stdout
    assert f"net.py:{line}:" in diff.stdout

    changed = run("status", "--porcelain", program=("git",)).stdout
    assert changed == " M net.py\n"
    assert len(run("worktree", "list", program=("git",)).stdout.splitlines()) == 1
