"""Intervals: first and last input position on which each element of a tensor depends, per input axis."""
