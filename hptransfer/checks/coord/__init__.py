"""Coordinate check: how activations and their changes grow with width."""
