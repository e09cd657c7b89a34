"""Times that are kept: the database, and the fingerprint of the machine that they belong to."""
