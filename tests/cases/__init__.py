"""Models, recipes and results that several tests use."""
