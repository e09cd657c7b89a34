"""Models at git revisions: each in a process of its own, and nothing is left behind."""

import os
import signal
import subprocess
import sys
import tempfile
import time

import pytest
from torch import nn

import archcost
from archcost.errors import ArchcostError, SpecError
from archcost.integrations import revisions
from archcost.integrations.apart import Job, Running
from archcost.integrations.revisions import Version, analyze_versions, version_of
from helpers import repository
from helpers.repository import git, state, two_revisions, write

OPTIONS = {"input_size": (1, 3, 16, 16)}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A repository with two revisions, as the working directory; and a folder for temporary files."""
    place, temporary = tmp_path / "a repository", tmp_path / "temporary"
    place.mkdir()
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    for name in ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"):
        monkeypatch.setenv(name, os.devnull)
    two_revisions(place)
    monkeypatch.chdir(place)
    before = state(place)
    yield place
    assert state(place) == before
    assert list(temporary.iterdir()) == []


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A saved Analysis to compare with, which takes no process."""
    file = tmp_path_factory.mktemp("saved") / "saved.json"
    archcost.analyze(nn.ReLU(), input_size=(1, 3, 16, 16)).save(file)
    return str(file)


def analyzed(a, b):
    return analyze_versions(version_of(a), version_of(b), OPTIONS, progress=False)


@pytest.mark.parametrize(
    ("text", "spec", "revision"),
    [
        ("net.py:Net", "net.py:Net", None),
        ("net.py:Net@main", "net.py:Net", "main"),
        ("a@b/net.py:Net.make@origin/main~2", "a@b/net.py:Net.make", "origin/main~2"),
        ("package.net:Net@main@{1}", "package.net:Net", "main@{1}"),
        ("before.json", "before.json", None),
        ("torchvision:resnet18", "torchvision:resnet18", None),
    ],
)
def test_a_spec_may_name_a_revision(text, spec, revision):
    assert version_of(text) == Version(spec, revision)


def test_two_revisions_with_the_same_module_names(folder):
    write(folder, "notes.txt", "not committed")
    a, b, remarks = analyzed("net.py:Net@main", "net.py:Net")
    (folder / "notes.txt").unlink()
    assert (a["stem"].params, b["stem"].params) == (8 * 27 + 8, 12 * 27 + 12)
    assert a.name == f"net.py:Net@main ({git(folder, 'rev-parse', '--short', 'main')})"
    assert b.name == "net.py:Net"
    assert remarks == ()
    assert str(a.trace.modules["stem"].built_at) == "net.py:8:21"
    difference = archcost.diff(a, b)
    kinds = {row.name: row.kind for row in difference.changes}
    assert kinds["body.2"] == "added"
    assert "was fc" in {row.name: row.why for row in difference.changes}["classifier"]


@pytest.mark.slow
def test_a_package_from_a_folder_inside(folder, monkeypatch, saved):
    write(folder, "parts/models.py", "from parts.layers import block\n\ndef model():\n    return block(3)\n")
    sha = repository.commit(folder, "models")
    monkeypatch.chdir(folder / "parts")
    monkeypatch.syspath_prepend(str(folder))  # as an editable install is
    a, _, remarks = analyzed(f"parts.models:model@{sha[:10]}", saved)
    git(folder, "reset", "-q", "--hard", "HEAD~1")
    assert a.total.params == 3 * 27 + 6
    assert a.name == f"parts.models:model@{sha[:10]}"
    assert remarks == ()


def test_a_factory_that_raises_says_at_which_revision(folder, saved):
    with pytest.raises(SpecError) as raised:
        analyzed(saved, "net.py:broken@wider")
    sha = git(folder, "rev-parse", "--short", "wider")
    assert str(raised.value) == (
        f"at wider ({sha}): net.py:broken: building the model failed: ValueError: no weights here"
    )
    assert "no weights here" in "".join(str(raised.value.__cause__.__cause__).splitlines()[-9:])


@pytest.mark.slow
def test_a_process_that_dies_is_reported(tmp_path):
    write(tmp_path, "dies.py", "import os\nprint('before the end', flush=True)\nos._exit(7)\n")
    running = Running(Job("dies.py:x", {}, str(tmp_path), tmp_path / "a.json"))
    with pytest.raises(SpecError, match=r"dies.py:x: the process ended with code 7: before the end"):
        running.result()
    running.stop()


@pytest.mark.parametrize(
    ("a", "message"),
    [
        ("net.py:Net@mian", "has no revision 'mian'; did you mean main?"),
        (
            "net.py:Net@v9",
            "has no revision 'v9'; fetch it first (in a GitHub workflow: actions/checkout with",
        ),
        ("net.py:Net@--help", "has no revision '--help'"),
        ("nets.py:Net@main", "there is no file 'nets.py' in main"),
        ("new.py:Net@main", "give both: archcost diff OLD.py:NAME@main new.py:Net"),
        ("torchvision:resnet18@main", "torchvision has no revisions here; leave @main out"),
        ("/proc/net.py:Net@main", "/proc is in no git repository (not a git repository"),
    ],
)
def test_bad_input_is_one_line_with_the_mend(folder, a, message):
    write(folder, "new.py", "")
    try:
        with pytest.raises(SpecError) as raised:
            analyzed(a, "net.py:Net")
    finally:
        (folder / "new.py").unlink()
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_without_git_the_message_says_so(folder, monkeypatch):
    monkeypatch.setenv("PATH", str(folder))
    with pytest.raises(SpecError, match="needs git, which is not on the PATH"):
        analyzed("net.py:Net@main", "net.py:Net")
    monkeypatch.undo()


@pytest.mark.slow
def test_a_stale_base_is_said(folder):
    git(folder, "checkout", "-q", "main")
    write(folder, "other.txt", "")
    repository.commit(folder, "on main alone")
    places = [revisions._Place.of(version_of(f"net.py:Net@{name}")) for name in ("main", "wider")]
    base = git(folder, "rev-parse", "--short", "main~1")
    (note,) = revisions._on_history(*places)
    assert "has 1 commit that wider" in note
    assert note.endswith(f"net.py:Net@{base}")
    assert revisions._on_history(revisions._Place.of(version_of("net.py:Net@main~1")), places[1]) == ()
    (note,) = revisions._on_history(places[1], revisions._Place.of(version_of("net.py:Net@main~1")))
    assert "is 1 commit behind wider" in note
    git(folder, "checkout", "-q", "--orphan", "alone")
    repository.commit(folder, "no parent")
    alone = revisions._Place.of(version_of("net.py:Net@alone"))
    (note,) = revisions._on_history(places[0], alone)
    assert "no history in common" in note
    git(folder, "checkout", "-q", "-f", "wider")
    git(folder, "branch", "-q", "-D", "alone")
    git(folder, "branch", "-q", "-f", "main", "main~1")
    (folder / "other.txt").unlink(missing_ok=True)


@pytest.mark.slow
def test_a_hook_and_its_variables_are_left_out(folder, monkeypatch, tmp_path):
    hook = folder / ".git" / "hooks" / "post-checkout"
    hook.write_text(f"#!/bin/sh\ntouch '{tmp_path}/ran'\n", encoding="utf-8")
    hook.chmod(0o755)
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "nowhere"))
    place = revisions._Place.of(version_of("net.py:Net@main"))
    with revisions._worktree(place.top, place.commit, tmp_path / "tree") as tree:
        assert (tree / "net.py").read_text(encoding="utf-8") == repository.BEFORE
    assert not (tmp_path / "tree").exists()
    assert not (tmp_path / "ran").exists()
    monkeypatch.delenv("GIT_DIR")


def test_a_worktree_is_removed_after_an_error_and_where_git_cannot(folder, monkeypatch, tmp_path):
    place = revisions._Place.of(version_of("net.py:Net@main"))
    with pytest.raises(KeyboardInterrupt), revisions._worktree(place.top, place.commit, tmp_path / "tree"):
        raise KeyboardInterrupt
    with revisions._worktree(place.top, place.commit, tmp_path / "tree") as tree:
        (tree / ".git").unlink()  # now it is no worktree that git would remove
    assert not (tmp_path / "tree").exists()


@pytest.mark.slow
def test_code_of_the_working_tree_is_not_taken_for_the_revision(folder, saved):
    """A folder that is imported from by other ways than the path, as some editable installs are."""
    write(folder, "net.py", "import importlib.util as u, os\n"
          f"s = u.spec_from_file_location('sibling', {str(folder / 'sibling.py')!r})\n"
          "import sys; m = sys.modules['sibling'] = u.module_from_spec(s); s.loader.exec_module(m)\n"
          "Net = m.Net\n")  # fmt: skip
    write(
        folder,
        "sibling.py",
        "from torch import nn\n\nclass Net(nn.Module):\n    def forward(self, x):\n        return x\n",
    )
    repository.commit(folder, "sibling")
    with pytest.raises(
        ArchcostError, match=r"at HEAD .*: sibling was imported from .*uninstall its editable"
    ):
        analyzed("net.py:Net@HEAD", saved)
    git(folder, "reset", "-q", "--hard", "HEAD~1")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_nothing_is_left_after_an_interruption(folder, tmp_path, number):
    write(
        folder,
        "slow.py",
        f"import time, pathlib\npathlib.Path({str(tmp_path / 'there')!r}).touch()\ntime.sleep(60)\n",
    )
    repository.commit(folder, "slow")
    environment = {**os.environ, "TMPDIR": str(tmp_path / "temporary")}
    process = subprocess.Popen(
        [sys.executable, "-m", "archcost", "diff", "slow.py:Net@HEAD"],
        env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True,
        # What a shell runs in the background ignores interrupts, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    end = time.monotonic() + 120
    while not (tmp_path / "there").exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.1)
    assert len(git(folder, "worktree", "list").splitlines()) == 2
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does
    else:
        process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143}[number], said
    assert "Traceback" not in said
    git(folder, "reset", "-q", "--hard", "HEAD~1")
