"""The best model within a budget: candidates, a choice, new weights, and a check of the whole."""
