"""The dependence rules of archcost, a file per family of operators."""
