"""How an Analysis and a Comparison are shown: their columns, rows, trees, notes and records."""
