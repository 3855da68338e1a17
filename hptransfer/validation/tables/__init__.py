"""Sweeps made elsewhere: read from their exports, and judged."""
