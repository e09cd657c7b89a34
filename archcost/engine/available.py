"""Available: how much memory is left, to the machine and to the container that this runs in."""

from __future__ import annotations

from collections.abc import Iterator
from math import inf
from pathlib import Path

__all__ = ["available_bytes"]

# Files of a control group, in both versions: its limit, what is used, and the part of that which is given up.
_FILES = {
    "": ("memory.max", "memory.current", "inactive_file"),
    "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


def available_bytes(system: Path = Path("/")) -> float:
    """Bytes that can be taken before anything is swapped or killed; infinite where Linux does not say.

    Args:
        system: the folder that holds ``proc`` and ``sys``.
    """
    left = _field(system / "proc/meminfo", "MemAvailable:")
    return min([inf if left is None else 1024 * left, *_left_to_groups(system)])


def _left_to_groups(system: Path) -> Iterator[float]:
    for line in _text(system / "proc/self/cgroup").splitlines():
        _, kind, path = line.split(":", 2)
        if kind not in _FILES:
            continue
        root = system / "sys/fs/cgroup" / kind
        limit, used, given_up = _FILES[kind]
        folder = root / path.strip("/")
        for group in (folder, *folder.parents[: len(folder.parts) - len(root.parts)]):
            most, taken = _text(group / limit).strip(), _text(group / used).strip()
            if most.isdigit() and taken.isdigit():  # "max" is none
                yield int(most) - int(taken) + (_field(group / "memory.stat", given_up) or 0)


def _field(path: Path, name: str) -> int | None:
    """The number behind a name at the beginning of a line."""
    words = (line.split() for line in _text(path).splitlines())
    return next((int(line[1]) for line in words if line[:1] == [name]), None)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except (OSError, ValueError):
        return ""
