"""Numeric checks of a plan: what small models really do, held against what the plan says."""
