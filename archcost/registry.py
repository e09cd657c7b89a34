"""What other packages add to archcost: they announce it by an entry point."""

from __future__ import annotations

from archcost.errors import ArchcostError

__all__ = ["load_plugins"]


def load_plugins(group: str, what: str) -> None:
    """Import what installed packages announce under ``group``; each registers what it holds.

    Raises ArchcostError, naming the package, where one cannot be loaded.
    """
    from importlib.metadata import entry_points

    for entry in entry_points(group=group):
        try:
            entry.load()
        except Exception as error:
            package = entry.dist.name if entry.dist else entry.value
            raise ArchcostError(
                f"the {what} of {package} (entry point {entry.name!r}) cannot be loaded: {error}; "
                f"update or uninstall it"
            ) from error
