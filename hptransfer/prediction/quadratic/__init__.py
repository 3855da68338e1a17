"""Quadratic models of training."""
