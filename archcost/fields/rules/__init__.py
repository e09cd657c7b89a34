"""The dependence rules of archcost, one file a family of operators."""
