"""A model as a graph, and what is read off it."""
