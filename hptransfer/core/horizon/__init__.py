"""Batch size and duration: rules, what they rest on, and how they are carried."""
