"""Predicted times: lower bounds by the roofline, and predictions from measured times."""
