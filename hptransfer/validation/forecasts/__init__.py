"""Forecasts: made at the base, held against a sweep, and scored later."""
