"""Several linear layers as one: what they compute together, on paper and with the numbers."""
