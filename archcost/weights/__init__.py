"""The weights of new layers: from those of the old ones, and from data."""
