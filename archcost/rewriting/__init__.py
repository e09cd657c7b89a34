"""Other layers in place of a model's own: which may be exchanged, the exchange, and what it did."""
