"""Outcomes other than PASS: which trials of which families fail or are refused, and why."""
