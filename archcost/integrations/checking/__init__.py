"""`archcost check`: findings on the models of a repository, at the lines of code that build their layers."""
