"""Subcommands about a plan: print it, and check it numerically."""
