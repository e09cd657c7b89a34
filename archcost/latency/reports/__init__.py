"""The columns and notes of `Measured`."""
