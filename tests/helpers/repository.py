"""A git repository with two revisions of a model, for the tests of what compares them."""

import os
import subprocess

USER = {
    f"GIT_{who}_{what}": f"{what}@example.com"
    for who in ("AUTHOR", "COMMITTER")
    for what in ("NAME", "EMAIL")
}
BEFORE = """
from torch import nn
from parts.layers import WIDTH, block

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, WIDTH, 3, padding=1)
        self.body = nn.Sequential(block(WIDTH), block(WIDTH))
        self.fc = nn.Linear(WIDTH, 10)

    def forward(self, x):
        return self.fc(self.body(self.stem(x)).mean((2, 3)))

def broken():
    return Net()
"""
LAYERS = """
from torch import nn

WIDTH = 8

def block(width):
    return nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
"""
AFTER = (
    BEFORE.replace("block(WIDTH), block(WIDTH)", "block(WIDTH), block(WIDTH), block(WIDTH)")
    .replace("self.fc", "self.classifier")
    .replace("return Net()\n", 'raise ValueError("no weights here")\n')
)


def git(folder, *arguments):
    """What git prints; without the configuration of whoever runs the tests."""
    env = {**os.environ, **USER, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    done = subprocess.run(
        ["git", "-C", folder, *arguments], env=env, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def write(folder, name, text):
    """A file in the folder, whose own folders are made."""
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(text, encoding="utf-8")


def commit(folder, message):
    """A commit of all that is there."""
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", message)
    return git(folder, "rev-parse", "HEAD")


def two_revisions(folder):
    """``main`` with the model before, ``wider`` with the one after, which is checked out."""
    git(folder, "init", "-q", "-b", "main")
    write(folder, "net.py", BEFORE)
    write(folder, "parts/layers.py", LAYERS)
    write(folder, "parts/__init__.py", "")
    commit(folder, "before")
    git(folder, "checkout", "-q", "-b", "wider")
    write(folder, "net.py", AFTER)
    write(folder, "parts/layers.py", LAYERS.replace("WIDTH = 8", "WIDTH = 12"))
    commit(folder, "after")


def state(folder):
    """All that must be as it was: the worktrees, the branches and the files."""
    files = sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if ".git" not in file.parts)
    administration = [str(path) for path in folder.glob(".git/worktrees/*")]
    lists = [git(folder, *command.split()) for command in ("worktree list", "branch -a", "status --short")]
    return files, administration, lists
