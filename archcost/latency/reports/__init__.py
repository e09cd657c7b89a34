"""How Measured is shown: its columns and notes."""
