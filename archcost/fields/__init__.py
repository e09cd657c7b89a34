"""Receptive fields: the part of the input on which each value of a Trace depends, through any graph."""
