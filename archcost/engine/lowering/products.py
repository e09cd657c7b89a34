"""Linear layers, matrix products and attention as steps."""
