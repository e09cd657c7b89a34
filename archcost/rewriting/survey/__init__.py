"""A survey of one model: its convolutions, their predecessors and successors, and which may be exchanged."""
