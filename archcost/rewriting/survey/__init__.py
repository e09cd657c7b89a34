"""What can be exchanged in one model: its convolutions, what precedes and follows them, and what may move."""
