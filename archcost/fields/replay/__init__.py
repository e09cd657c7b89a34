"""Replay: the operations of a Trace, applied to intervals instead of values by the dependence rules."""
