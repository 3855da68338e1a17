"""Forward multipliers: which are wanted, where they go, what absorbing them changes."""
