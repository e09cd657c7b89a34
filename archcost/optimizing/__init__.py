"""The best model within a budget: candidates for each layer, a choice, new weights, and a check of the whole."""
