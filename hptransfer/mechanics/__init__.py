"""Solvable models and universal laws that predictions are held against."""
