"""Recording: the dispatch mode and hooks that record each operation of a forward pass."""
