"""The store of measurements: its database, and the fingerprint of the machine that a time belongs to."""
