"""Modules exchanged in a model: which may be, the exchange and the way back, and what came of it."""
