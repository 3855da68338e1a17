"""Brute force and published numbers that the library is held against."""
