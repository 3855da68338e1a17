"""One training run: what a recipe is, its seeds, its units, its loop."""
