"""Cost: the parameters, MACs, memory and depth of a Trace, counted without executing anything."""
