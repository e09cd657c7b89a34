"""Receptive fields: which part of the input each value depends on, exact through any graph."""
