"""Faults to plant: each takes one guard of the product away, and the tests that DESIGN.md names for it have to notice."""
