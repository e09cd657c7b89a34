"""The Documents of an Analysis and a Comparison: columns, rows, trees, notes and records."""
