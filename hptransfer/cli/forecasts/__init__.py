"""Subcommands that predict, and that say how well predictions held."""
