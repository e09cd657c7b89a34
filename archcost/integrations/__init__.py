"""Integrations: where people already look, shown what archcost counts. Thin; each needs its own package."""
