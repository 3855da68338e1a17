"""Settings beside the learning rate: what they are called, what a run trains with, and how they are searched."""
