"""A model and its inputs -> a Trace: what ran, on what shapes, fed by whom."""
