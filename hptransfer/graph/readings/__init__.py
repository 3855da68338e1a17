"""Readings of a graph that the scale analysis does not replace."""
