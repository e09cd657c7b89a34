"""Times that were not measured: from the roofline, and from those that the store has."""
