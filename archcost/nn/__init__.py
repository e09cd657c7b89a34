"""Modules that archcost puts into models. Their import paths stay: pickles and generated source name them."""
