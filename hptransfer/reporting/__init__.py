"""Figures and the self-contained HTML report, rendered from files without training."""
