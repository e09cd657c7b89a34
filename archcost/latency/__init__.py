"""Measuring on this machine: the clock, and every number in seconds that is built on it."""
