"""Dimensional analysis of a forward: how every tensor grows, and the factors that are missing."""
