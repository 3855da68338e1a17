"""Initial scales from signal propagation."""
