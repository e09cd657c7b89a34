"""Tracing: one forward pass of a model, recorded as a Trace of operations, module calls and storages."""
