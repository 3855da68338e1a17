"""Plans from and for other tools."""
