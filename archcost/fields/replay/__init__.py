"""A Trace gone through once more with intervals in place of numbers, by the dependence rules."""
