"""The page of a check: its figures, tables, downloads and advice."""
