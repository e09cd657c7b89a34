"""Models at git revisions, ``net.py:Net@main``: checked out beside the working tree, which stays as it is."""

from __future__ import annotations

import contextlib
import difflib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

from archcost.analysis.analysis import Analysis, analyze
from archcost.errors import ArchcostError, SpecError
from archcost.integrations.apart import Job, Running
from archcost.progress import Progress

__all__ = ["Version", "analyze_versions", "version_of"]

_AT = re.compile(r"(?P<spec>.+?:[A-Za-z_][\w.]*)@(?P<revision>.+)")
_PUBLISHED = ("torchvision", "timm")
# Set in a git hook, they would name the wrong repository.
_OF_HOOKS = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_COMMON_DIR")
_QUIET = {"LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0", "GIT_LFS_SKIP_SMUDGE": "1"}
_GIT = ("git", "-c", f"core.hooksPath={os.devnull}", "-c", "advice.detachedHead=false")


@dataclass(frozen=True)
class Version:
    """A model at a git revision; in the working tree, or of no repository at all, where that is None."""

    spec: str
    revision: str | None = None

    @property
    def source(self) -> str:
        """The file or the package that the SPEC names."""
        return self.spec.rpartition(":")[0]

    @property
    def is_code(self) -> bool:
        """Whether the SPEC names code of the user's, and no published model or saved Analysis."""
        return not self.spec.endswith(".json") and self.source not in _PUBLISHED


def version_of(text: str) -> Version:
    """The version that ``file.py:factory@REV`` or ``package.module:attr@REV`` names, or a SPEC without one.

    Raises:
        SpecError: a published model is given a revision.
    """
    found = _AT.fullmatch(text)
    if found is None:
        return Version(text)
    version = Version(found["spec"], found["revision"])
    if not version.is_code:
        raise SpecError(f"{text}: {version.source} has no revisions here; leave @{version.revision} out")
    return version


def analyze_versions(
    a: Version, b: Version, options: Mapping[str, Any], progress: bool | None = None
) -> tuple[Analysis, Analysis, tuple[str, ...]]:
    """Analyse two versions of a model, code of the user's in a process for each.

    Revisions are checked out by ``git worktree add`` into a temporary folder, which is removed in any case.

    Args:
        a: the version before.
        b: the version after.
        options: those of `archcost.analyze`; a saved Analysis has its own.
        progress: as in `archcost.analyze`.

    Returns:
        Both Analyses, and notes on the revisions: a base that is out of date.

    Raises:
        SpecError: git is missing, there is no such revision, or the file is not in it.
        ArchcostError: a model cannot be analysed; the message says at which revision.
    """
    if a.spec.endswith(".json") and b.spec.endswith(".json"):
        return analyze(a.spec, **options), analyze(b.spec, **options), ()
    places = [_Place.of(version) for version in (a, b)]
    with contextlib.ExitStack() as stack:
        folder = Path(os.path.realpath(stack.enter_context(tempfile.TemporaryDirectory(prefix="archcost-"))))
        stack.enter_context(_terminated_as_exit())
        stack.enter_context(Progress(1, "analysing both versions", progress))
        running: list[Running | None] = []
        for letter, place in zip("ab", places, strict=True):
            if not (place.commit or all(one.version.is_code for one in places)):
                running.append(None)  # this process can do it
                continue
            process = Running(place.job(stack, folder / f"{letter}.json", dict(options)))
            stack.callback(process.stop)
            running.append(process)
        sides = [place.analysis(run, options) for place, run in zip(places, running, strict=True)]
    return sides[0], sides[1], _on_history(*places)


@dataclass(frozen=True)
class _Place:
    """A version, with the repository and the commit that it is of."""

    version: Version
    top: str | None = None
    """The folder of the repository."""
    commit: str | None = None
    """None in the working tree."""
    short: str = ""

    @classmethod
    def of(cls, version: Version) -> _Place:
        if not version.is_code:
            return cls(version)
        where = (
            os.path.dirname(os.path.realpath(version.source))
            if version.source.endswith(".py")
            else os.getcwd()
        )
        while not os.path.isdir(where):  # a folder that is in another revision only
            where = os.path.dirname(where)
        if version.revision is None:
            with contextlib.suppress(SpecError):
                return cls(version, _git(where, "rev-parse", "--show-toplevel"))
            return cls(version)
        asked = f"{version.spec}@{version.revision}"
        try:
            top = os.path.realpath(_git(where, "rev-parse", "--show-toplevel"))
        except _GitError as error:
            raise SpecError(
                f"{asked}: {where} is in no git repository ({error}); compare two files, or what --save wrote"
            ) from error
        commit = _commit(top, version.revision, asked)
        place = cls(version, top, commit, _git(top, "rev-parse", "--short", commit))
        place._check_file(asked)
        return place

    @property
    def text(self) -> str:
        """The revision in words."""
        if self.commit is None:
            return "the working tree"
        asked = str(self.version.revision)
        return asked if self.commit.startswith(asked) else f"{asked} ({self.short})"

    def _check_file(self, asked: str) -> None:
        if not self.version.source.endswith(".py"):
            return
        file = os.path.realpath(self.version.source)
        inside = os.path.relpath(file, self.top).replace(os.sep, "/")
        try:
            _git(str(self.top), "cat-file", "-e", f"{self.commit}:{inside}")
        except _GitError as error:
            here = os.path.isfile(file)
            other = f"archcost diff OLD.py:NAME@{self.version.revision} {self.version.spec}"
            hint = f"; where it had another name, give both: {other}" if here else ", nor in the working tree"
            raise SpecError(f"{asked}: there is no file {inside!r} in {self.text}{hint}") from error

    def job(self, stack: contextlib.ExitStack, out: Path, options: dict[str, Any]) -> Job:
        """The job to analyse it, in a worktree of the revision that lives as long as the stack."""
        here = os.getcwd()
        if self.commit is None or self.top is None:
            return Job(self.version.spec, options, here, out)
        tree = str(stack.enter_context(_worktree(self.top, self.commit, out.with_suffix(""))))
        file, colon, name = self.version.spec.rpartition(":")
        inside = _within(here, self.top)
        folder = os.path.join(tree, inside) if inside is not None else tree
        folder = folder if os.path.isdir(folder) else tree
        if file.endswith(".py"):
            there = os.path.join(tree, os.path.relpath(os.path.realpath(file), self.top))
            file = os.path.relpath(there, folder)
        # What the working tree is imported from, an editable install say, is imported from the revision.
        mapped = [within for entry in sys.path if (within := _within(entry or here, self.top)) is not None]
        paths = dict.fromkeys(os.path.join(tree, within) for within in (*mapped, "", "src"))
        found = tuple(path for path in paths if os.path.isdir(path))
        return Job(f"{file}{colon}{name}", options, folder, out, found, self.top)

    def analysis(self, running: Running | None, options: Mapping[str, Any]) -> Analysis:
        """The Analysis, under a name that says the revision."""
        version = self.version
        if running is None:
            return analyze(version.spec, **({} if version.spec.endswith(".json") else options))
        try:
            found = running.result()
        except ArchcostError as error:
            raise type(error)(f"at {self.text}: {error}") from error
        if self.commit is None:
            return replace(found, name=version.spec)
        return replace(found, name=f"{version.spec}@{self.text}")


def _within(path: str, top: str) -> str | None:
    """A path relative to a folder that it is in; None where it is not."""
    path = os.path.realpath(path)
    inside = path == top or path.startswith(top + os.sep)
    return os.path.relpath(path, top) if inside else None


class _GitError(SpecError):
    """git said no; the message is its last line."""


def _git(folder: str, *arguments: str) -> str:
    """The output of git; raises _GitError with its message, and SpecError where there is no git."""
    kept = {name: value for name, value in os.environ.items() if name not in _OF_HOOKS}
    try:
        done = subprocess.run(
            [*_GIT, "-C", folder, *arguments],
            env={**kept, **_QUIET},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",
        )
    except FileNotFoundError as error:
        raise SpecError(
            "a revision needs git, which is not on the PATH: install it, or compare files"
        ) from error
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"git ended with code {done.returncode}"]
        raise _GitError(said[0].removeprefix("fatal: "))
    return done.stdout.strip()


def _commit(top: str, revision: str, asked: str) -> str:
    """The commit of a revision; raises SpecError with near names where there is none."""
    try:
        if revision.startswith("-"):
            raise _GitError("it would be an option")
        return _git(top, "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}")
    except _GitError as error:
        known = _git(top, "for-each-ref", "--format=%(refname:short)").splitlines()
        close = difflib.get_close_matches(revision, known, n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else "fetch it first (in a GitHub workflow: "
        hint += "" if close else "actions/checkout with fetch-depth: 0)"
        if not known:
            hint = "it has no commits yet"
        raise SpecError(f"{asked}: {top} has no revision {revision!r}; {hint}") from error


@contextlib.contextmanager
def _worktree(top: str, commit: str, folder: Path) -> Iterator[Path]:
    """The files of a commit in a folder that is removed at the end, and not in ``git worktree list``."""
    try:
        _git(top, "worktree", "add", "--detach", "--quiet", str(folder), commit)
        yield folder
    finally:
        with _undisturbed():
            try:
                _git(top, "worktree", "remove", "--force", str(folder))
            except SpecError:  # it was never complete, or a file in it cannot be removed now
                shutil.rmtree(folder, ignore_errors=True)
                with contextlib.suppress(SpecError):
                    _git(top, "worktree", "prune")


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """A context in which Ctrl-C does nothing: it cleans up."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def _terminated_as_exit() -> Iterator[None]:
    """A context in which a termination, as of a cancelled CI job, cleans up before the process ends."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _on_history(a: _Place, b: _Place) -> tuple[str, ...]:
    """The note that a lacks or has commits that b does not know of: its changes would count as b's."""
    if a.commit is None or a.top is None or b.top is None or os.path.realpath(b.top) != a.top:
        return ()
    try:
        head = b.commit or _git(a.top, "rev-parse", "HEAD")
        ahead = int(_git(a.top, "rev-list", "--count", f"{head}..{a.commit}"))
        if not ahead:
            return ()
        base = _git(a.top, "merge-base", a.commit, head)
    except _GitError:
        return (
            f"{a.text} and {b.text} have no history in common here; a shallow clone has too little of it",
        )
    commits = f"{ahead} commit{'s' * (ahead > 1)}"
    if base == head:
        return (f"{b.text} is {commits} behind {a.text}, whose changes show in reverse",)
    short = _git(a.top, "rev-parse", "--short", base)
    return (
        f"{a.text} has {commits} that {b.text} lacks, whose changes show in reverse: merge it, or compare "
        f"with where they parted, {a.version.spec}@{short}",
    )
