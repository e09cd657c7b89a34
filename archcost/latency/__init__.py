"""What is measured on this machine: the clock and, built on it, every number in seconds."""
