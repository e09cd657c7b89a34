"""A Trace -> Costs: parameters, MACs, memory, depth. Counted on paper; nothing here executes anything."""
