"""Tests, and what they share: cases, oracles, workers of distributed runs, support."""
