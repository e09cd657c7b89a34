"""Plans: chosen proposals, saved, read and carried out on a model."""
