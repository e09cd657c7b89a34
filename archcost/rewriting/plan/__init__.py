"""Plans: what was chosen, saved and read, and carried out on a model."""
