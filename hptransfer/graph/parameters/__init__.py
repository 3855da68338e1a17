"""What is done with every parameter: its uses, its axes, its fans."""
