"""Modules exchanged in a model: which may be, the exchange and its undo, and checks of the result."""
