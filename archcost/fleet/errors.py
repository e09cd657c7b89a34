"""The error of the fleet."""

from archcost.errors import ArchcostError

__all__ = ["FleetError"]


class FleetError(ArchcostError):
    """A scheduler, a worker or a device cannot be used, or a result is none; the message says what to do."""
